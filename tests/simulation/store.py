"""The one store of a simulated world, and what each process sees of it through its faults."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from journal import (
    Append,
    Appended,
    ClaimQuery,
    CommitOutcomeUnknown,
    Head,
    HeadQuery,
    JournalClosed,
    JournalError,
    JournalFull,
    JournalUnavailable,
    KeyQuery,
    Lease,
    RecordedEvent,
    StaleLease,
    WrongExpectedVersion,
)

if TYPE_CHECKING:
    from tests.simulation.node import Node
    from tests.simulation.world import World

SECOND = 1_000_000
WRITES = ("append", "claim", "release")
_NEVER = 100.0
"""A draw that is larger than what all the likelihoods come to."""


class Weather(Struct):
    """How likely what goes wrong is, for one world; drawn from its seed."""

    crash_before: float = 0.0
    crash_after: float = 0.0
    unknown: float = 0.0
    busy: float = 0.0
    full: float = 0.0
    read_error: float = 0.0
    slow: float = 0.0
    lost_answer: float = 0.0
    late_answer: float = 0.0
    lost_notification: float = 0.0
    late_notification: float = 0.0
    renewal_error: float = 0.0
    kill: float = 0.0
    pause: float = 0.0
    block: float = 0.0
    shutdown: float = 0.0
    jump: float = 0.0
    drift: float = 0.0

    @property
    def moves_clocks(self) -> bool:
        """Whether clocks differ by more than a process can know."""
        return bool(self.jump or self.drift)

    @property
    def stops_processes(self) -> bool:
        """Whether a process may stand still between looking at its lease and relying on it."""
        return bool(self.pause or self.block)


class Request(Struct):
    """Something that a process has asked the store for."""

    node: "Node"
    kind: str
    function: Callable[[], Any]
    done: Callable[[Any, Exception | None], object]
    at: int
    """Not served before this instant of the world."""
    delayed: bool = False


class View:
    """The journal as one process sees it."""

    def __init__(self, world: "World", node: "Node") -> None:
        self._world = world
        self._node = node
        self._inner = world.inner
        self.watchers: list[tuple[str | None, Callable[[Sequence[RecordedEvent]], None]]] = []

    @property
    def location(self) -> str:
        return "simulated"

    def now(self) -> int:
        return self._world.clock()

    # what is asked and answered

    def _ask(self, kind: str, function: Callable[[], Any], done: Any) -> None:
        self._world.ask(Request(self._node, kind, function, done, self._world.now))

    async def _asked(self, kind: str, function: Callable[[], Any]) -> Any:
        if self._node.is_dead:
            raise JournalClosed("this process is dead")
        future: asyncio.Future[Any] = self._node.loop.create_future()

        def done(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._ask(kind, function, done)
        return await future

    def append_soon(self, append: Append, done: Any) -> None:
        self._ask("append", lambda: self._world.append(self._node, append), done)

    async def append(self, append: Append) -> Appended:
        appended: Appended = await self._asked(
            "append", lambda: self._world.append(self._node, append)
        )
        return appended

    async def read_stream(
        self, stream: str, *, after: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        read = self._inner.read_stream
        facts: list[RecordedEvent] = await self._asked(
            "read", lambda: at_once(read(stream, after=after, limit=limit))
        )
        return facts

    async def head(self, stream: str) -> Head | None:
        head: Head | None = await self._asked("read", lambda: at_once(self._inner.head(stream)))
        return head

    async def heads(self, query: HeadQuery) -> list[Head]:
        heads: list[Head] = await self._asked("read", lambda: at_once(self._inner.heads(query)))
        return heads

    async def get_blob(self, digest: str) -> bytes:
        blob: bytes = await self._asked("read", lambda: at_once(self._inner.get_blob(digest)))
        return blob

    async def claim(self, query: ClaimQuery) -> list[tuple[Head, Lease]]:
        claimed: list[tuple[Head, Lease]] = await self._asked(
            "claim", lambda: self._world.claim(self._node, query)
        )
        return claimed

    async def release(self, lease: Lease) -> None:
        await self._asked("release", lambda: self._world.release(lease))

    def find_soon(self, query: KeyQuery, done: Any) -> None:
        self._ask("read", lambda: self._world.find(query), done)

    def shares_store_with(self, _path: str) -> bool:
        return False

    # what the heartbeat's thread does

    def renew_blocking(self, leases: Sequence[Lease], seconds: float) -> list[Lease]:
        return self._world.renew(self._node, leases, seconds)

    def watch(
        self, stream: str | None, watcher: Callable[[Sequence[RecordedEvent]], None]
    ) -> Callable[[], None]:
        entry = (stream, watcher)
        self.watchers.append(entry)

        def stop() -> None:
            if entry in self.watchers:
                self.watchers.remove(entry)

        return stop

    async def close(self) -> None:
        self.watchers.clear()


class Faults:
    """What becomes of each request."""

    def __init__(self, world: "World", weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.full_until = 0

    def serve(self, request: Request) -> None:
        """Does what was asked, or not, and answers, or not."""
        world, chance, weather = self.world, self.world.chance, self.weather
        node, kind = request.node, request.kind
        if node.is_dead:
            # It asked before it died; nobody knows whether that has reached the store.
            if kind in WRITES and chance.random() < 0.5:
                self._do(request)
                world.hit("written by a dead process")
            return
        draw = chance.random() if not world.is_calm else _NEVER
        if kind == "append":
            self._append(request, draw)
        elif kind == "claim" and draw < weather.lost_answer and self._strikes("is lost", request):
            result, error = self._do(request)
            if result:
                world.hit("claim whose answer was lost")
            self._answer(request, None, error or JournalUnavailable("the answer was lost"))
        elif draw < weather.read_error and self._strikes("fails", request):
            world.hit("read error")
            self._answer(request, None, JournalUnavailable("this could not be read"))
        else:
            result, error = self._do(request)
            late = kind == "read" and chance.random() < weather.late_answer and not world.is_calm
            if late and self._strikes("is answered late", request):
                self._answer_late(request, result, error)
            else:
                self._answer(request, result, error)

    def _strikes(self, what: str, request: Request) -> bool:
        return self.world.strikes(f"its {request.kind} {what}", request.node.name)

    def _answer_late(self, request: Request, result: Any, error: Exception | None) -> None:
        world = self.world
        commits = world.commits

        def answer() -> None:
            if world.commits > commits:
                world.hit("stale read")
            self._answer(request, result, error)

        world.later(world.chance.choice([1_000, 300_000, 2 * SECOND]), answer)

    def _append(self, request: Request, draw: float) -> None:
        world, chance, weather = self.world, self.world.chance, self.weather
        if world.now < self.full_until and not world.is_calm:
            world.hit("disk full")
            self._answer(request, None, JournalFull("no space is left"))
            return
        for likely, what in (
            (weather.crash_before, self._crash_before),
            (weather.crash_after, self._crash_after),
            (weather.unknown, self._unknown),
            (weather.busy, self._busy),
            (weather.full, self._fill),
            (weather.slow, self._slow),
        ):
            if draw < likely:
                if not self._strikes(f"meets {what.__name__.strip('_')}", request):
                    break
                what(request)
                return
            draw -= likely
        result, error = self._do(request)
        late = error is None and chance.random() < weather.late_answer and not world.is_calm
        if late and self._strikes("is answered late", request):
            delay = chance.choice([1_000, SECOND, world.lease_us * 2])
            world.later(delay, lambda: self._answer(request, result, None))
            return
        self._answer(request, result, error)

    def _crash_before(self, request: Request) -> None:
        if request.node.is_client:
            self._answer(request, *self._do(request))
            return
        self.world.hit("crash before commit")
        self.world.kill(request.node)

    def _crash_after(self, request: Request) -> None:
        if request.node.is_client:
            self._answer(request, *self._do(request))
            return
        self._do(request)
        self.world.hit("crash after commit")
        self.world.kill(request.node)

    def _unknown(self, request: Request) -> None:
        error: Exception | None = None
        if self.world.chance.random() < 0.5:
            _, error = self._do(request)
            if error is None:
                self.world.hit("unknown that happened")
        else:
            self.world.hit("unknown that did not happen")
        self._answer(request, None, error or CommitOutcomeUnknown("nobody can tell"))

    def _busy(self, request: Request) -> None:
        self.world.hit("busy")
        self._answer(request, None, JournalUnavailable("the store is busy"))

    def _fill(self, request: Request) -> None:
        self.full_until = self.world.now + self.world.chance.choice([1, 3, 20]) * SECOND
        self.world.hit("disk full")
        self._answer(request, None, JournalFull("no space is left"))

    def _slow(self, request: Request) -> None:
        if request.delayed:
            self._answer(request, *self._do(request))
            return
        factor = self.world.chance.choice([0.1, 1.2, 3.0])
        request.delayed = True
        request.at = self.world.now + round(self.world.lease_us * factor)
        if factor > 1:
            self.world.hit("slow beyond the lease")
        self.world.ask(request)

    def _do(self, request: Request) -> tuple[Any, Exception | None]:
        try:
            return request.function(), None
        except JournalError as error:
            if isinstance(error, StaleLease):
                self.world.hit("fenced append")
            elif isinstance(error, WrongExpectedVersion):
                client = request.node.is_client
                self.world.hit("client's append refused" if client else "rebased append")
            return None, error

    def _answer(self, request: Request, result: Any, error: Exception | None) -> None:
        node = request.node
        if node.is_dead:
            return
        node.loop.call_soon(request.done, result, error)


def at_once(coroutine: Any) -> Any:
    """What a coroutine that waits for nothing gives."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("the reference journal waits for nothing")
