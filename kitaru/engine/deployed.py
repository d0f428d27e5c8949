"""The code of deployed versions: which one an execution runs, and its bundle made ready to load."""

import asyncio
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from journal import BlobNotFound, CorruptJournal, Journal
from kitaru.domain.execution.events import (
    DeploymentReference,
    ExecutionEvent,
    ExecutionMoved,
    ExecutionStarted,
    SourceReference,
)
from kitaru.engine.bundles import BundleDamaged, unpack
from kitaru.errors import KitaruStateError


class Code(Struct, frozen=True):
    """What an execution runs now."""

    source: SourceReference
    """With a deployment, its paths are relative to the bundle."""
    deployment: DeploymentReference | None = None
    fingerprint: str = ""


class RunsElsewhere(KitaruStateError):
    """An execution of a deployed version: only a runner of that version may run it."""

    def __init__(self, deployment: DeploymentReference) -> None:
        super().__init__(
            f"The execution runs version {deployment.version} of {deployment.flow!r}: a runner "
            "process of that version runs it, and none that has other code."
        )
        self.deployment = deployment


class BundleGone(KitaruStateError):
    """The bundle of a deployed version is not in the journal."""

    def __init__(self, bundle: str) -> None:
        super().__init__(
            f"its bundle {bundle[:12]} is not in the journal, so no worker has it; put the journal "
            "back that it was deployed to, or move the execution to another version"
        )
        self.bundle = bundle


class Place(Protocol):
    """Where a process finds the code of executions."""

    async def source_of(self, code: Code) -> SourceReference:
        """Where the code is in this process, with absolute paths. Raises KitaruError."""
        ...


class OwnCode:
    """A process that runs what its own files say, and so no deployed version."""

    async def source_of(self, code: Code) -> SourceReference:
        if code.deployment is not None:
            raise RunsElsewhere(code.deployment)
        return code.source


class UnpackedCode:
    """The files of a bundle in a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def source_of(self, source: SourceReference, import_roots: Sequence[str]) -> SourceReference:
        """Where the code is, whose modules can be imported from now on."""
        for root in reversed(import_roots):
            _put_on_path(_inside(self._folder, root))
        return replace(
            source,
            file=_inside(self._folder, source.file),
            root=_inside(self._folder, source.root),
        )


class BundledCode:
    """A process that runs what one bundle says."""

    def __init__(self, journal: Journal, bundle: str, cache: str) -> None:
        self._journal = journal
        self._bundle = bundle
        self._cache = cache
        self._folder = ""

    async def source_of(self, code: Code) -> SourceReference:
        deployment = code.deployment
        if deployment is None or deployment.bundle != self._bundle:
            raise KitaruStateError(
                f"This process has bundle {self._bundle[:12]}, and the execution runs other code."
            )
        unpacked = UnpackedCode(self._folder or await self._unpacked())
        return unpacked.source_of(code.source, deployment.import_roots)

    async def _unpacked(self) -> str:
        try:
            data = await self._journal.get_blob(self._bundle)
        except BlobNotFound:
            raise BundleGone(self._bundle) from None
        except CorruptJournal as error:
            raise BundleDamaged(self._bundle, f"{error}.") from error
        self._folder = await asyncio.to_thread(unpack, data, self._bundle, self._cache)
        return self._folder


def _inside(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(folder, path))


def _put_on_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def code_of(events: Iterable[ExecutionEvent]) -> Code:
    """What the execution with these events runs now."""
    code: Code | None = None
    for event in events:
        match event:
            case ExecutionStarted() | ExecutionMoved():
                code = Code(event.source, event.deployment, event.fingerprint)
            case _:
                pass
    assert code is not None
    return code


def not_loaded(code: Code, error: Exception) -> str:
    """Why an execution's code is not there to run, for people."""
    deployment = code.deployment
    if deployment is None:
        return f"its code cannot be loaded: {error}"
    return f"version {deployment.version} of {deployment.flow} cannot be loaded: {error}"
