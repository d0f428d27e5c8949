"""A package holds the files, and not what changes by itself or is nobody else's business."""

from pathlib import Path

from kitaru.operations.packaging import JOURNAL_FILES, _journal_in


def test_the_journals_files_in_the_project_are_left_out(tmp_path: Path) -> None:
    inside = _journal_in(str(tmp_path), f"sqlite:///{tmp_path}/data/journal.db")
    assert inside == [f"data/journal.db{ending}" for ending in JOURNAL_FILES]
    assert _journal_in(str(tmp_path / "a"), f"sqlite:///{tmp_path}/journal.db") == []
    assert _journal_in(str(tmp_path), "memory://") == []
