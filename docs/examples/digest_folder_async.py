"""The same digest as an async flow: `gather`, a semaphore and a `TaskGroup` over checkpoints.

    python docs/examples/digest_folder_async.py docs --name monday --pause-seconds 1

The order in which checkpoints end is recorded, so a run that is taken over goes through the same
branches as the one that was killed.
"""

import asyncio
import sys
from pathlib import Path

from digest_folder import (
    AT_ONCE,
    Index,
    Page,
    Summary,
    broken_links,
    index_of,
    options_of,
    page_of,
    report_of,
    write_report,
)

from kitaru import checkpoint, flow, log, save


@checkpoint
async def list_files(folder: str) -> list[str]:
    """The Markdown files below the folder, by their relative paths."""
    root = Path(folder)
    found = await asyncio.to_thread(lambda: sorted(root.rglob("*.md")))
    return [path.relative_to(root).as_posix() for path in found]


@checkpoint(retries=2)
async def read_page(path: str, folder: str, pause_seconds: float) -> Page:
    """Reads one file, slowly if you like to watch."""
    await asyncio.sleep(pause_seconds)
    content = await asyncio.to_thread((Path(folder) / path).read_bytes)
    return page_of(path, content)


@checkpoint
async def build_index(pages: list[Page]) -> Index:
    """Adds all files up."""
    index = index_of(pages)
    save("frequent_words", index["frequent"])
    return index


@checkpoint
async def check_links(folder: str, path: str, links: list[str]) -> list[str]:
    """The relative links of one file that lead nowhere."""
    return await asyncio.to_thread(broken_links, Path(folder), path, links)


# Files change: nothing is to be taken from an earlier execution.
@flow(cache=False)
async def digest_folder_async(folder: str, report: str, pause_seconds: float = 0.0) -> Summary:
    """Reads every file, checks every link, writes the report."""
    paths = await list_files(folder)
    log(folder=folder, files=len(paths))
    gate = asyncio.Semaphore(AT_ONCE)

    async def read(path: str) -> Page:
        async with gate:
            return await read_page(path, folder, pause_seconds)

    pages = await asyncio.gather(*(read(path) for path in paths))
    index = await build_index(pages)
    async with asyncio.TaskGroup() as group:
        checking = [
            group.create_task(check_links(folder, page["path"], page["links"])) for page in pages
        ]
    broken = {page["path"]: task.result() for page, task in zip(pages, checking, strict=True)}
    written = await write_report.aio(report, report_of(pages, index, broken))
    return {
        "files": index["files"],
        "words": index["words"],
        "broken_links": sum(len(links) for links in broken.values()),
        "report": written,
    }


async def main(arguments: list[str]) -> None:
    """Runs the flow over the folder that the command line names."""
    options = options_of(arguments)
    handle = await digest_folder_async.with_options(idempotency_key=options.name).run(
        str(options.folder.absolute()), str(options.report.absolute()), options.pause_seconds
    )
    print(f"execution {handle.exec_id}", flush=True)
    print(await handle.wait())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
