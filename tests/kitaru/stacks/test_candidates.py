"""A candidate's code is loaded in another process, and what that says or fails to say is told."""

from pathlib import Path

import pytest

from kitaru.domain.deployment.events import EntryPoint
from kitaru.engine.bundles import Bundle, bundle_of
from kitaru.errors import KitaruBackendError
from kitaru.stacks.candidates import CandidateReport, judge_candidate

PROGRAM = """
import os, sys
from kitaru import flow
print("not an answer")
{top}

@flow
def agent() -> int:
    return 1
"""


def bundled(tmp_path: Path, top: str = "") -> Bundle:
    root = tmp_path / "project"
    root.mkdir()
    (root / "flows.py").write_text(PROGRAM.format(top=top))
    return bundle_of(str(root))


def judge(tmp_path: Path, bundle: Bundle, qualname: str = "agent") -> CandidateReport:
    entry = EntryPoint(module="flows", qualname=qualname, file="flows.py", import_roots=("",))
    journal = f"sqlite:///{tmp_path}/journal.db"
    return judge_candidate(journal, "agent", bundle.data, bundle.digest, entry, seconds=5)


async def test_code_that_loads_judges_what_there_is(tmp_path: Path, journal_url: str) -> None:
    from journal import open_journal

    await (await open_journal(journal_url)).close()
    assert judge(tmp_path, bundled(tmp_path)) == CandidateReport()


def test_code_that_does_not_load_is_told_with_its_place_in_the_bundle(tmp_path: Path) -> None:
    told = judge(tmp_path, bundled(tmp_path, "import no_such_library"))
    assert told.problem.startswith("Loading flows failed at flows.py:5 with ModuleNotFoundError")
    (tmp_path / "project" / "flows.py").unlink()
    (tmp_path / "project").rmdir()
    assert "is not a flow" in judge(tmp_path, bundled(tmp_path), "other").problem


def test_a_process_without_an_answer_is_told_with_its_last_words(tmp_path: Path) -> None:
    bundle = bundled(tmp_path, "print('farewell', file=sys.stderr, flush=True); os._exit(7)")
    with pytest.raises(KitaruBackendError, match=r"exit code 7[\s\S]*farewell"):
        judge(tmp_path, bundle)
