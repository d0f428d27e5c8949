"""PORT: what every type of stack can do. One that runs elsewhere is a file beside `process.py`.

An executor only *places* work: it sees that a runner of an execution comes to be. The journal stays
the only truth. Whoever is placed claims the execution's lease, so that placing twice, from one
process or from several, is harmless: the second runner finds the lease taken and ends.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from kitaru.image import ImageSettings


class Work(Struct, frozen=True, kw_only=True):
    """An execution that is to get a runner."""

    exec_id: str
    epoch: int
    """The epoch of its last lease: the runner that is placed will have a later one."""
    stack: str
    """The name of its stack."""
    image: ImageSettings
    """As it is recorded: the names of secrets, and no value of one."""
    bundle: str = ""
    """The digest of the bundle with its code; empty: its own source is loaded."""


class Placed(Struct, frozen=True):
    """A runner that an executor of this process has started and that has not ended."""

    exec_id: str
    where: str
    """For people: ``process 4711``."""
    log: str = ""
    """The file with its output."""


class Ended(Struct, frozen=True, kw_only=True):
    """A runner that has ended since somebody asked last."""

    exec_id: str
    where: str
    epoch: int
    """That of the last lease before it was placed."""
    problem: str = ""
    """How it ended, if not by itself."""
    log: str = ""
    """The file with its output; empty where it said nothing."""


class Executor(Protocol):
    """Places the executions of stacks of one type. Its methods may block, and come from any thread
    but an event loop's."""

    def prepare(self, image: ImageSettings) -> ImageSettings:
        """Makes what the image asks for, before an execution is started with it.

        Returns what is to be recorded: the same, with nothing left that another process would find
        otherwise. Raises KitaruImageError and KitaruUsageError.
        """
        ...

    def place(self, work: Work, secrets: dict[str, str]) -> bool:
        """Sees that the execution gets a runner; False while there is no room for another one.

        `secrets` are values that only the process knows which starts the execution. Again for an
        execution and epoch that has its runner already, it does nothing. Raises KitaruError when no
        runner can be started.
        """
        ...

    def placed(self) -> Sequence[Placed]:
        """The runners that this process has started and that have not ended."""
        ...

    def ended(self) -> Sequence[Ended]:
        """The runners that have ended since this was asked last; nothing of them is left."""
        ...

    def stop(self, exec_id: str) -> bool:
        """Asks a runner that this process has started to give back what it has, and to end.

        False when there is none.
        """
        ...
