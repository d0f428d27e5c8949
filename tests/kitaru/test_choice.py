"""The choice of an active stack: where it is kept, and that it is never half written."""

import threading
from pathlib import Path

import pytest

from kitaru.choice import Choice, choice_file, choose_stack, chosen_stack, forget_choice
from kitaru.errors import KitaruBackendError, KitaruUsageError


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_nothing_is_chosen_at_first() -> None:
    assert chosen_stack() is None
    forget_choice()


def test_a_choice_is_the_projects_where_there_is_one_and_else_the_users(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "config" / "kitaru" / "active-stack.json"
    assert choose_stack("mine") == users
    (project / ".kitaru").mkdir()
    assert chosen_stack() is None
    choose_stack("ours")
    assert chosen_stack() == Choice("ours", project / ".kitaru" / "active-stack.json")
    monkeypatch.setenv("KITARU_CONFIG_PATH", str(tmp_path / "named"))
    assert choice_file() == tmp_path / "named" / "active-stack.json"
    assert chosen_stack() is None


def test_the_last_choice_counts_and_can_be_forgotten() -> None:
    choose_stack("one")
    choose_stack("two")
    found = chosen_stack()
    assert found is not None
    assert found.stack == "two"
    forget_choice()
    assert chosen_stack() is None


@pytest.mark.parametrize(
    "content",
    [b"", b"stack", b"[]", b"{}", b'{"stack": 1}', b'{"stack": ""}', b"\xff", b"[" * 5000],
)
def test_a_file_that_names_no_stack_is_a_choice_of_none(content: bytes) -> None:
    file = choose_stack("one")
    file.write_bytes(content)
    assert chosen_stack() == ("", file)
    choose_stack("two")
    assert chosen_stack() == ("two", file)


def test_a_file_that_cannot_be_read_is_named() -> None:
    file = choose_stack("one")
    file.unlink()
    file.mkdir()
    with pytest.raises(KitaruUsageError, match=r"active-stack\.json cannot be read"):
        chosen_stack()


def test_a_choice_that_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    with pytest.raises(KitaruBackendError, match="cannot be written"):
        choose_stack("one")
    assert chosen_stack() is None


def test_who_reads_while_others_write_sees_a_whole_choice() -> None:
    names = [f"stack-{number}-{'x' * 500}" for number in range(4)]
    choose_stack(names[0])
    done = threading.Event()

    def write(name: str) -> None:
        while not done.is_set():
            choose_stack(name)

    writers = [threading.Thread(target=write, args=(name,)) for name in names]
    for writer in writers:
        writer.start()
    try:
        for _ in range(300):
            found = chosen_stack()
            assert found is not None
            assert found.stack in names
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert [file.name for file in choice_file().parent.iterdir()] == ["active-stack.json"]
