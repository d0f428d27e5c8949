"""What may be on a disk after its power failed.

A file's writes and cuts are certain once a sync of it has worked. Any of the others may be on the
disk or not, in any combination, and a write may be there in part, in sectors of 512 bytes. What a
*failed* sync was asked to bring to the disk stays uncertain for ever, also when a later one works:
Linux marks it as written and does not try again. A new name in a folder, and a removed one, are
certain after a sync of the folder.
"""

import random
from collections.abc import Iterator, Sequence

from msgspec import Struct

from tests.powerloss.recording import (
    ACKNOWLEDGEMENTS,
    Opened,
    Operation,
    Synced,
    Truncated,
    Unlinked,
    Wrote,
)

SECTOR = 512
IGNORED = ("-shm",)
"""Endings of files that need not survive: SQLite makes its index of the log anew."""

Change = Wrote | Truncated


class Image(Struct, frozen=True):
    """The files that are found when the power is back, and what had been told by then."""

    files: dict[str, bytes]
    told: tuple[str, ...]


class _File:
    """The content of a file: what is certain, and what came after it."""

    def __init__(self) -> None:
        self.certain = bytearray()
        self.later: list[tuple[Change, str]] = []
        """Changes in their order; each is "pending", "doubtful" after a failed sync, or "certain"
        behind a doubtful one."""

    def change(self, change: Change) -> None:
        self.later.append((change, "pending"))

    def sync(self, worked: bool) -> None:
        now = "certain" if worked else "doubtful"
        self.later = [(each, now if state == "pending" else state) for each, state in self.later]
        while self.later and self.later[0][1] == "certain":
            _apply(self.certain, self.later.pop(0)[0])

    def content(self, chance: random.Random, fate: str) -> bytes:
        content = bytearray(self.certain)
        uncertain = [place for place, (_, state) in enumerate(self.later) if state != "certain"]
        kept = set(_survivors(uncertain, chance, fate))
        for place, (change, state) in enumerate(self.later):
            if state == "certain" or place in kept:
                _apply(content, change)
            elif isinstance(change, Wrote) and fate == "torn":
                for piece in _sectors(change):
                    if chance.random() < 0.5:
                        _apply(content, piece)
        return bytes(content)


FATES = ("all", "none", "in order", "some", "torn")


def _survivors(places: list[int], chance: random.Random, fate: str) -> list[int]:
    match fate:
        case "all":
            return places
        case "none":
            return []
        case "in order":
            return places[: chance.randint(0, len(places))]
        case "some":
            return [place for place in places if chance.random() < 0.5]
        case _:
            return [place for place in places if chance.random() < 0.3]


def _sectors(write: Wrote) -> Iterator[Wrote]:
    begin = write.offset
    end = write.offset + len(write.data)
    while begin < end:
        until = min(end, (begin // SECTOR + 1) * SECTOR)
        data = write.data[begin - write.offset : until - write.offset]
        yield Wrote(write.fd, begin, data)
        begin = until


def _apply(content: bytearray, change: Change) -> None:
    size = change.size if isinstance(change, Truncated) else change.offset
    if isinstance(change, Truncated):
        del content[size:]
    content.extend(bytes(max(0, size - len(content))))
    if isinstance(change, Wrote):
        content[size : size + len(change.data)] = change.data


class _Disk:
    """The files of a folder, as the process sees them and as a loss of power may leave them."""

    def __init__(self) -> None:
        self.names: dict[str, _File] = {}
        """As the process sees it."""
        self.certain_names: dict[str, _File] = {}
        self.by_fd: dict[int, _File | None] = {}
        self.told: list[str] = []
        self._telling: set[int] = set()
        self._folders: set[int] = set()

    def do(self, operation: Operation) -> None:
        match operation:
            case Opened(fd, name):
                self._open(fd, name)
            case Wrote(fd, _, data) if fd in self._telling:
                self.told += data.decode().splitlines()
            case Wrote(fd) | Truncated(fd):
                if (file := self.by_fd.get(fd)) is not None:
                    file.change(operation)
            case Synced(fd, worked):
                file = self.by_fd.get(fd)
                if file is not None:
                    file.sync(worked)
                elif worked and fd in self._folders:
                    self.certain_names = dict(self.names)
            case Unlinked(name):
                self.names.pop(name, None)

    def _open(self, fd: int, name: str) -> None:
        self._telling.discard(fd)
        self._folders.discard(fd)
        self.by_fd[fd] = None
        if name == ACKNOWLEDGEMENTS:
            self._telling.add(fd)
        elif name == ".":
            self._folders.add(fd)
        elif not name.endswith(IGNORED):
            self.by_fd[fd] = self.names.setdefault(name, _File())

    def image(self, chance: random.Random) -> Image:
        fate = chance.choice(FATES)
        names = dict(self.names if chance.random() < 0.5 else self.certain_names)
        for name in self.names.keys() ^ self.certain_names.keys():
            if chance.random() < 0.5:
                either = self.names.get(name) or self.certain_names[name]
                names[name] = either
        files = {name: file.content(chance, fate) for name, file in names.items()}
        return Image(files, tuple(self.told))


def images(operations: Sequence[Operation], count: int, seed: int) -> Iterator[Image]:
    """Images of losses of power at random moments between the operations."""
    chance = random.Random(seed)
    moments = sorted(chance.randrange(1, len(operations) + 1) for _ in range(count))
    disk = _Disk()
    done = 0
    for moment in moments:
        while done < moment:
            disk.do(operations[done])
            done += 1
        yield disk.image(chance)
