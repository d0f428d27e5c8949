"""A process runs only code that is its own: files where they are, or what is in one bundle."""

import sys
from pathlib import Path

import pytest

from journal import Append, HeadChange, Journal, NewEvent, open_journal
from kitaru.domain.execution.events import (
    CancelRequested,
    DeploymentReference,
    ExecutionMoved,
    ExecutionStarted,
    SourceReference,
)
from kitaru.domain.values import StoredValue
from kitaru.engine.bundles import Bundle, bundle_of
from kitaru.engine.deployed import (
    BundledCode,
    BundleGone,
    Code,
    OwnCode,
    RunsElsewhere,
    code_of,
)
from kitaru.errors import KitaruBackendError, KitaruStateError

SOURCE = SourceReference("flows", "agent", "src/flows.py", "src")


def reference(bundle: str, version: int = 1) -> DeploymentReference:
    return DeploymentReference("agent", version, bundle, ("src", ""))


def started(bundle: str) -> ExecutionStarted:
    return ExecutionStarted(
        flow="agent",
        source=SOURCE,
        arguments=StoredValue(),
        arguments_digest="d",
        deployment=reference(bundle),
        fingerprint="f1",
    )


def test_an_execution_runs_what_it_was_moved_to_last() -> None:
    other = SourceReference("other", "agent", "other.py")
    moved = ExecutionMoved(deployment=reference("cd", 2), source=other, fingerprint="f2")
    assert code_of([started("ab"), CancelRequested()]) == Code(SOURCE, reference("ab"), "f1")
    assert code_of([started("ab"), moved]) == Code(other, reference("cd", 2), "f2")


async def test_a_process_with_its_own_files_runs_no_deployed_version() -> None:
    assert await OwnCode().source_of(Code(SOURCE)) is SOURCE
    with pytest.raises(RunsElsewhere, match="version 1 of 'agent'"):
        await OwnCode().source_of(Code(SOURCE, reference("ab")))


def bundled(tmp_path: Path) -> Bundle:
    (tmp_path / "root" / "src").mkdir(parents=True)
    (tmp_path / "root" / "src" / "flows.py").write_text("x = 1\n")
    return bundle_of(str(tmp_path / "root"))


async def journal_with(bundle: Bundle) -> Journal:
    journal = await open_journal("memory://")
    await journal.append(
        Append("d-1", (NewEvent("A", b""),), 0, HeadChange("s", "n", None), blobs=(bundle.data,))
    )
    return journal


async def test_a_bundles_code_is_found_where_it_was_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    bundle = bundled(tmp_path)
    journal = await journal_with(bundle)
    code = BundledCode(journal, bundle.digest, str(tmp_path / "cache"))
    found = await code.source_of(Code(SOURCE, reference(bundle.digest)))
    folder = tmp_path / "cache" / bundle.digest
    assert found == SourceReference("flows", "agent", f"{folder}/src/flows.py", f"{folder}/src")
    assert (folder / "src" / "flows.py").read_text() == "x = 1\n"
    assert sys.path == [f"{folder}/src", str(folder)]
    for foreign in (Code(SOURCE), Code(SOURCE, reference("cd" * 32))):
        with pytest.raises(KitaruStateError, match="runs other code"):
            await code.source_of(foreign)


async def test_a_bundle_that_is_not_in_the_journal_is_named(tmp_path: Path) -> None:
    digest = "ab" * 32
    code = BundledCode(await open_journal("memory://"), digest, str(tmp_path))
    with pytest.raises(BundleGone, match="no worker has it"):
        await code.source_of(Code(SOURCE, reference(digest)))


async def test_a_folder_that_takes_no_bundle_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    bundle = bundled(tmp_path)
    journal = await journal_with(bundle)
    cache = tmp_path / "cache"
    code = BundledCode(journal, bundle.digest, f"{cache}/bundles")
    make_file(cache)
    with pytest.raises(KitaruBackendError, match=r"cannot be unpacked in .*Not a directory"):
        await code.source_of(Code(SOURCE, reference(bundle.digest)))
    remove_file(cache)
    assert (await code.source_of(Code(SOURCE, reference(bundle.digest)))).root


def make_file(path: Path) -> None:
    path.write_text("no folder")


def remove_file(path: Path) -> None:
    path.unlink()
