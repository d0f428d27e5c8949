"""Digests a folder of Markdown: word counts, most frequent words, broken relative links.

    python docs/examples/digest_folder.py docs --name monday --pause-seconds 1

Every file is one checkpoint. Kill the program in the middle and start it again with the same name:
within the lease time it goes on where it was, and files that were read are not read again.
"""

import argparse
import hashlib
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TypedDict

from kitaru import checkpoint, flow, log, save

WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
AT_ONCE = 4
SHORTEST_WORD = 4
SHOWN_WORDS = 20


class Page(TypedDict):
    """What is known of one file."""

    path: str
    sha256: str
    words: dict[str, int]
    headings: int
    links: list[str]


class Index(TypedDict):
    """What is known of all files together."""

    files: int
    words: int
    frequent: list[tuple[str, int]]
    digest: str


class Summary(TypedDict):
    """What the flow returns."""

    files: int
    words: int
    broken_links: int
    report: str


@checkpoint
def list_files(folder: str) -> list[str]:
    """The Markdown files below the folder, by their relative paths."""
    root = Path(folder)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.md"))


@checkpoint(retries=2)
def read_page(path: str, folder: str, pause_seconds: float) -> Page:
    """Reads one file, slowly if you like to watch."""
    time.sleep(pause_seconds)
    content = (Path(folder) / path).read_bytes()
    return page_of(path, content)


@checkpoint
def build_index(pages: list[Page]) -> Index:
    """Adds all files up."""
    index = index_of(pages)
    save("frequent_words", index["frequent"])
    return index


@checkpoint
def check_links(folder: str, path: str, links: list[str]) -> list[str]:
    """The relative links of one file that lead nowhere."""
    return broken_links(Path(folder), path, links)


@checkpoint
def write_report(file: str, text: str) -> str:
    """Writes the report, whole or not at all; once more does no harm."""
    target = Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, target)
    return str(target)


# Files change: nothing is to be taken from an earlier execution.
@flow(cache=False)
def digest_folder(folder: str, report: str, pause_seconds: float = 0.0) -> Summary:
    """Reads every file, checks every link, writes the report."""
    paths = list_files(folder)
    log(folder=folder, files=len(paths))
    pages: list[Page] = []
    for start in range(0, len(paths), AT_ONCE):
        batch = paths[start : start + AT_ONCE]
        reading = read_page.map(batch, folder=folder, pause_seconds=pause_seconds)
        pages += [future.result() for future in reading]
    index = build_index(pages)
    checking = [check_links.submit(folder, page["path"], page["links"]) for page in pages]
    broken = {page["path"]: future.result() for page, future in zip(pages, checking, strict=True)}
    written = write_report(report, report_of(pages, index, broken))
    return {
        "files": index["files"],
        "words": index["words"],
        "broken_links": sum(len(links) for links in broken.values()),
        "report": written,
    }


def page_of(path: str, content: bytes) -> Page:
    """What is to be known of a file with this content."""
    text = content.decode("utf-8", "replace")
    prose = CODE.sub(" ", text)
    words = WORD.findall(LINK.sub(r"\1", prose))
    return {
        "path": path,
        "sha256": hashlib.sha256(content).hexdigest(),
        "words": dict(Counter(word.lower() for word in words)),
        "headings": sum(line.startswith("#") for line in prose.splitlines()),
        "links": sorted({target for _, target in LINK.findall(prose)}),
    }


def index_of(pages: list[Page]) -> Index:
    """The sum of all files."""
    counts: Counter[str] = Counter()
    for page in pages:
        counts.update(page["words"])
    longer = Counter({word: n for word, n in counts.items() if len(word) >= SHORTEST_WORD})
    frequent = sorted(longer.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_WORDS]
    digests = "".join(f"{page['sha256']}  {page['path']}\n" for page in pages)
    return {
        "files": len(pages),
        "words": counts.total(),
        "frequent": frequent,
        "digest": hashlib.sha256(digests.encode()).hexdigest(),
    }


def broken_links(root: Path, path: str, links: list[str]) -> list[str]:
    """Those of a file's links that are relative and lead to nothing."""
    elsewhere = ("#", "mailto:", "http://", "https://")
    relative = [link for link in links if not link.startswith(elsewhere)]
    here = (root / path).parent
    return [link for link in relative if not (here / link.partition("#")[0]).exists()]


def report_of(pages: list[Page], index: Index, broken: dict[str, list[str]]) -> str:
    """The report, in Markdown."""
    lines = [
        "# Digest",
        "",
        f"{index['files']} files, {index['words']} words, digest `{index['digest']}`.",
        "",
        "| file | words | headings | links | SHA-256 |",
        "|---|---|---|---|---|",
    ]
    for page in pages:
        words = sum(page["words"].values())
        lines.append(
            f"| {page['path']} | {words} | {page['headings']} | {len(page['links'])} "
            f"| `{page['sha256'][:12]}` |"
        )
    lines += ["", "## Most frequent words", ""]
    lines += [f"- {word}: {count}" for word, count in index["frequent"]]
    lines += ["", "## Broken relative links", ""]
    found = [f"- {path}: {link}" for path, links in broken.items() for link in links]
    return "\n".join([*lines, *(found or ["None."]), ""])


def options_of(arguments: list[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Digest a folder of Markdown files.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--report", type=Path, default=Path("digest-report.md"))
    parser.add_argument("--name", help="the same name again goes on with that run")
    parser.add_argument("--pause-seconds", type=float, default=0.0, help="before each file")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Runs the flow over the folder that the command line names."""
    options = options_of(arguments)
    handle = digest_folder.with_options(idempotency_key=options.name).run(
        str(options.folder.absolute()), str(options.report.absolute()), options.pause_seconds
    )
    print(f"execution {handle.exec_id}", flush=True)
    print(handle.wait())


if __name__ == "__main__":
    main(sys.argv[1:])
