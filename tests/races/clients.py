"""Other processes that steer executions of this one's journal."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Client:
    """One such process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def do(self, lines: list[str]) -> list[tuple[str, bool, str]]:
        """Does all of it at once: the executions, whether it was accepted, and why not."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write("".join(f"{line}\n" for line in [*lines, ""]).encode())
        await stdin.drain()
        said = await self._until("done")
        answers = [line.split(" ", 2) for line in said]
        return [(exec_id, yes == "yes", "".join(why)) for exec_id, yes, *why in answers]

    async def _until(self, last: str) -> list[str]:
        assert self._process.stdout is not None
        said: list[str] = []
        while (line := (await self._process.stdout.readline()).decode().rstrip("\n")) != last:
            assert line, f"the client has ended: {said}"
            said.append(line)
        return said

    async def ready(self) -> None:
        """Waits until it has opened the journal."""
        await self._until("ready")


@contextlib.asynccontextmanager
async def clients(journal: Path, count: int) -> AsyncIterator[list[Client]]:
    """So many processes with a journal; they are gone afterwards."""
    environment = {**os.environ, "KITARU_JOURNAL": str(journal), "KITARU_LOG_LEVEL": "off"}
    command = [sys.executable, "-m", "tests.races.client"]
    processes: list[Process] = []
    try:
        for _ in range(count):
            processes.append(
                await asyncio.create_subprocess_exec(
                    *command, stdin=PIPE, stdout=PIPE, env=environment, cwd=ROOT
                )
            )
        found = [Client(process) for process in processes]
        for client in found:
            await client.ready()
        yield found
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
