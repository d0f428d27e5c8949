"""The lines of an execution are found in what runners have printed, and new ones as they come."""

from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.stacks.log_reading import FEW_EXECUTIONS, NewLines, read_lines, read_runner_lines
from kitaru.stacks.logs import ENDING, OLDER, LogLine


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    file = tmp_path / f"a{ENDING}"
    lines = [
        b'{"text":"2","at":2,"exec_id":"e","call":"f"}',
        b'{"text":"1","at":1,"exec_id":"e"}',
        b'{"text":"e","at":3,"exec_id":"other"}',
        b'{"text": broken \xff',
        b"",
    ]
    file.write_bytes(b"\n".join(lines))
    assert [line.text for line in read_lines(tmp_path, exec_ids=["e"])] == ["1", "2"]
    assert [line.text for line in read_lines(tmp_path, exec_ids=["e"], call="f")] == ["2"]
    assert len(read_lines(tmp_path)) == 4
    assert read_lines(tmp_path / "nowhere") == []
    assert [line.text for line in read_lines(tmp_path, names=["gone.log"])] == []


def test_all_that_the_runner_of_one_execution_says_is_that_executions(tmp_path: Path) -> None:
    exec_id = str(UUID(int=1))
    (tmp_path / f"{exec_id}-1{ENDING}").write_text(
        f"""No module named kitaru
{{"text":"2","at":2,"exec_id":"{exec_id}"}}
{{"text":"3","exec_id":"f"}}
"""
    )
    (tmp_path / f"other{ENDING}").write_text(f"{exec_id} is another one's\n")
    found = [line.text for line in read_lines(tmp_path, exec_ids=[exec_id])]
    assert found == ["No module named kitaru", "2"]


def test_lines_of_many_executions_are_read_at_once(tmp_path: Path) -> None:
    ids = [f"e{number}" for number in range(3 * FEW_EXECUTIONS)]
    lines = [f'{{"text":"{exec_id}","at":1,"exec_id":"{exec_id}"}}' for exec_id in ids]
    (tmp_path / f"a{ENDING}").write_text("\n".join(lines))
    for wanted in (ids[:2], ids[:-1]):
        assert [line.exec_id for line in read_lines(tmp_path, exec_ids=wanted)] == wanted


def test_what_runners_say_beside_an_execution_is_read_in_the_order_in_which_they_said_it(
    tmp_path: Path,
) -> None:
    exec_id, other = str(UUID(int=1)), str(UUID(int=2))
    (tmp_path / f"b{ENDING}").write_text(
        f"""first
{{"text":"importing","at":5,"stream":"stdout"}}
{{"text":"of the flow","at":6,"exec_id":"{exec_id}"}}
Fatal Python error: Aborted
  in work
"""
    )
    # This one never printed anything: its code could not be loaded.
    (tmp_path / f"a{ENDING}").write_text(
        f'{{"text":"event=flow_not_loadable exec_id={exec_id}","at":7,"stream":"stderr"}}\n'
    )
    (tmp_path / f"c{ENDING}").write_text(
        f'{{"text":"other","at":1}}\n{{"text":"{other}","at":2}}\n'
    )
    found = [(line.at, line.text) for line in read_runner_lines(tmp_path, [exec_id])]
    assert found == [
        (0, "first"),
        (5, "importing"),
        (6, "Fatal Python error: Aborted"),
        (6, "  in work"),
        (7, f"event=flow_not_loadable exec_id={exec_id}"),
    ]
    assert [line.text for line in read_runner_lines(tmp_path, [other])] == ["other", other]
    # One that died before it knew of any execution.
    (tmp_path / f"{other}-1{ENDING}").write_text("No module named kitaru\n")
    told = ["No module named kitaru", "other", other]
    assert [line.text for line in read_runner_lines(tmp_path, [other])] == told
    assert read_runner_lines(tmp_path / "nowhere", [exec_id]) == []


LINES = st.lists(
    st.builds(
        LogLine,
        text=st.text(max_size=5).filter(str.isprintable),
        at=st.integers(1, 9),
        exec_id=st.sampled_from(["e", "f"]),
        call=st.sampled_from(["", "c"]),
    ),
    max_size=8,
)


@given(lines=LINES, data=st.data())
def test_every_line_comes_once_however_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[LogLine], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    file = folder / f"a{ENDING}"
    written = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=4)))
    new = NewLines(folder, "e")
    taken: list[LogLine] = []
    for begin, end in zip([0, *cuts], [*cuts, len(written)], strict=True):
        with file.open("ab") as opened:
            opened.write(written[begin:end])
        taken += new.take()
    assert new.take() == []
    assert sorted(taken, key=repr) == sorted(read_lines(folder, exec_ids=["e"]), key=repr)


def test_lines_of_a_file_that_is_set_aside_come_once_and_those_of_the_next_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / f"a{ENDING}"
    new = NewLines(tmp_path, "e", "c")

    def write(text: str, call: str = "c") -> None:
        with file.open("ab") as opened:
            opened.write(msgspec.json.encode(LogLine(text=text, exec_id="e", call=call)) + b"\n")

    write("1")
    assert [line.text for line in new.take()] == ["1"]
    write("2")
    write("another call's", "d")
    file.rename(tmp_path / f"a{ENDING}{OLDER}")
    write("3")
    assert [line.text for line in new.take()] == ["2", "3"]
    (tmp_path / f"a{ENDING}{OLDER}").unlink()
    assert new.take() == []
    assert NewLines(tmp_path / "nowhere", "e").take() == []
