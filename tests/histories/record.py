"""Records the histories of this version anew: ``python tests/histories/record.py FOLDER``.

To be run once for each release, into a folder of its own (``tests/histories/0.1``), from a copy of
this folder in a place that everybody may know (the paths of the machine are part of a history).
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import flows  # type: ignore[import-not-found]  # the copy beside this file, run as a script

import kitaru


class Recorder:
    """Runs flows and writes what they leave behind."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.client = kitaru.AsyncKitaruClient().executions

    def scratch(self) -> str:
        """A folder in which a checkpoint remembers what it has tried."""
        return tempfile.mkdtemp()

    async def keep(self, exec_id: str, name: str) -> None:
        """Writes one history."""
        content = await self.client.export(exec_id)
        (self.target / f"{name}.history.jsonl").write_bytes(content)

    async def ends(self, name: str, flow: Any, *arguments: Any) -> str:
        """A flow that ends by itself."""
        handle = flow.aio.run(*arguments)
        await handle
        try:
            await handle.wait()
        except kitaru.KitaruExecutionError as error:
            print(f"{name}: {error}")
        await self.keep(handle.exec_id, name)
        return str(handle.exec_id)

    async def waits(self, flow: Any, name: str) -> Any:
        """A flow that has come to a wait of this name."""
        handle = flow.aio.run()
        await handle
        await self.until(handle.exec_id, name)
        return handle

    async def until(self, exec_id: str, name: str) -> None:
        """Waits until an execution waits for this, or has this to be reviewed."""
        async with asyncio.timeout(30):
            while name not in await self.open_in(exec_id):  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)

    async def open_in(self, exec_id: str) -> list[str]:
        """What an execution waits for."""
        waits = [wait.name for wait in await self.client.pending_waits(exec_id)]
        return waits or [(await self.client.get(exec_id)).status]

    async def all(self) -> None:
        """Everything but what needs a process that dies."""
        source = await self.ends("in-order", flows.in_order, ["a", "b", "c"])
        await self.ends("in-order-reused", flows.in_order, ["a", "b", "c"])
        fork = flows.in_order.aio.replay(source, from_="the named one")
        await fork.wait()
        await self.keep(fork.exec_id, "in-order-fork")
        overridden = flows.in_order.aio.replay(
            source, from_="the named one", overrides={"checkpoint.fetch": "other"}
        )
        await overridden.wait()
        await self.keep(overridden.exec_id, "in-order-overridden")
        await self.ends("side-by-side", flows.side_by_side, ["a", "b", "c"])
        await self.ends("tried-again", flows.tried_again, self.scratch())
        await self.ends("mended", flows.mended, self.scratch())
        await self.ends("keeps-values", flows.keeps_values)
        await self.ends("pays", flows.pays, "")
        await self.ends("writes", flows.writes)
        failed = await self.ends("fails", flows.fails)
        await self.client.retry(failed)
        try:
            await (await self.client.handle(failed)).wait()
        except kitaru.KitaruUserCodeError:
            await self.keep(failed, "fails-again")
        await self.asked()
        for flow in (flows.is_cancelled, flows.is_cancelled_async):
            handle = await self.waits(flow, "never")
            await self.keep(handle.exec_id, f"{flow.name.replace('_', '-')}-open")
            await self.client.cancel(handle.exec_id, "enough")
            try:
                await handle.wait()
            except kitaru.KitaruCancelledError:
                await self.keep(handle.exec_id, flow.name.replace("_", "-"))

    async def asked(self) -> None:
        handle = flows.asks.aio.run()
        await handle
        await self.client.input(handle.exec_id, wait="early", value=3)
        await self.until(handle.exec_id, "agree")
        await self.client.input(handle.exec_id, wait="agree", value=True)
        await self.until(handle.exec_id, "go on")
        await self.keep(handle.exec_id, "asks-open")
        await self.client.input(handle.exec_id, wait="go on", value=None)
        await handle.wait()
        await self.keep(handle.exec_id, "asks")
        handle = await self.waits(flows.asks_async, "b")
        await self.client.input(handle.exec_id, wait="b", value=2)
        await self.client.input(handle.exec_id, wait="a", value=1)
        await handle.wait()
        await self.keep(handle.exec_id, "asks-async")

    async def lost(self) -> None:
        """An attempt that may run only once, whose process has died."""
        folder = self.scratch()
        program = f"import flows; flows.pays.run({folder!r}).wait()"
        subprocess.run([sys.executable, "-c", program], check=False)  # noqa: ASYNC221
        latest = await self.client.latest(flow="pays")
        await asyncio.sleep(2)
        await self.client.resume(latest.exec_id)
        await self.until(latest.exec_id, "waiting")
        await self.keep(latest.exec_id, "pays-in-review")
        await self.client.resolve(latest.exec_id, "charge", result="charged by hand")
        await (await self.client.handle(latest.exec_id)).wait()
        await self.keep(latest.exec_id, "pays-reviewed")


async def main(target: Path) -> None:
    async with kitaru.runtime(journal="journal.db", lease_seconds=1.0):
        recorder = Recorder(target)
        await recorder.all()
        await recorder.lost()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(folder))
