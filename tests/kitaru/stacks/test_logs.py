"""What is printed is found by where it was printed; no file grows for ever."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from uuid import UUID

import click
import msgspec
import pytest

from kitaru.engine.context import CheckpointScope, FlowScope, scope
from kitaru.stacks import logs
from kitaru.stacks.logs import (
    ENDING,
    LogLine,
    TaggedStream,
    make_room,
    read_lines,
    read_runner_lines,
)


class Kept:
    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    def add(self, line: LogLine) -> None:
        self.lines.append(line)


class Runner:
    def __init__(self, exec_id: str) -> None:
        self.exec_id = exec_id


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def stream(kept: Kept) -> TaggedStream:
    return TaggedStream(kept, "stdout")  # type: ignore[arg-type]


def texts(kept: Kept) -> list[tuple[str, str, str]]:
    return [(line.exec_id, line.call, line.text) for line in kept.lines]


def test_lines_are_whole_however_they_are_written(kept: Kept, stream: TaggedStream) -> None:
    print("one", "two", file=stream)
    stream.write("three\nfo")
    stream.write("ur\n\nfive")
    assert [text for _, _, text in texts(kept)] == ["one two", "three", "four", ""]
    stream.flush()
    assert kept.lines[-1].text == "five"
    stream.write("\udcff\n")
    assert kept.lines[-1].text == "\\udcff"


def test_each_line_tells_whose_it_is_also_when_several_are_begun(
    kept: Kept, stream: TaggedStream
) -> None:
    def body(exec_id: str, call: str) -> None:
        runner = Runner(exec_id)
        within = CheckpointScope(runner, call, 1, call)  # type: ignore[arg-type]
        here = within if call else FlowScope(runner)
        scope.set(here)
        stream.write(f"{exec_id} ")
        began.wait(10)
        stream.write("done\n")

    began = threading.Barrier(3)
    threads = [
        threading.Thread(target=body, args=place) for place in (("a", ""), ("a", "f"), ("b", "f"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts(kept)) == [("a", "", "a done"), ("a", "f", "a done"), ("b", "f", "b done")]


def test_a_line_without_an_end_is_cut(kept: Kept, stream: TaggedStream) -> None:
    stream.write("x" * (3 * logs.LONGEST_LINE + 1))
    assert [len(line.text) for line in kept.lines] == [logs.LONGEST_LINE] * 3


PRINTS = """
import ctypes, os, sys
from kitaru.stacks import logs
logs.MOST_BYTES = 2_000
logs.capture(sys.argv[1])
os.write(1, b"from C\\n")
for number in range(int(sys.argv[2])):
    print("line", number)
print("wrong", file=sys.stderr)
"""


def printed(tmp_path: Path, count: int) -> Path:
    file = tmp_path / f"runner{ENDING}"
    with open(file, "ab") as log:
        subprocess.run(
            [sys.executable, "-c", PRINTS, file, str(count)],
            stdout=log,
            stderr=log,
            check=True,
        )
    return file


def test_a_processs_output_is_read_back_with_what_c_code_prints(tmp_path: Path) -> None:
    printed(tmp_path, 2)
    found = [(line.stream, line.text) for line in read_lines(tmp_path)]
    assert found == [
        ("", "from C"),
        ("stdout", "line 0"),
        ("stdout", "line 1"),
        ("stderr", "wrong"),
    ]


def test_a_full_file_is_set_aside_and_the_last_lines_are_there(tmp_path: Path) -> None:
    file = printed(tmp_path, 500)
    sizes = [path.stat().st_size for path in (file, Path(f"{file}{logs.OLDER}"))]
    assert all(size <= 2_100 for size in sizes)
    found = [line.text for line in read_lines(tmp_path)]
    assert found[-2:] == ["line 499", "wrong"]


def test_a_file_that_somebody_has_removed_stops_nobody_from_printing(tmp_path: Path) -> None:
    file = tmp_path / f"runner{ENDING}"
    program = PRINTS.replace("for number", "os.unlink(sys.argv[1])\nfor number", 1)
    with open(file, "ab") as log:
        done = subprocess.run(
            [sys.executable, "-c", program, file, "500"],
            stdout=log,
            stderr=log,
            check=False,
        )
    assert done.returncode == 0


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


FAILS = """
import os, sys
from kitaru.stacks import logs
logs.capture(sys.argv[1])
print("one")
kept, full = os.dup(1), os.open("/dev/full", os.O_WRONLY)
os.dup2(full, 1)
print("two")
print("three")
os.dup2(kept, 1)
print("four")
logs.MOST_BYTES = 0
os.unlink(sys.argv[1])
print("five")
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no file here is always full")
def test_a_line_that_cannot_be_written_fails_nothing_and_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / f"runner{ENDING}"
    gone = file.open("a+b")
    with gone as log:
        subprocess.run([sys.executable, "-c", FAILS, file], stdout=log, stderr=log, check=True)
        log.seek(0)
        before = [msgspec.json.decode(line, type=LogLine).text for line in log]
    assert before == ["one", "(2 lines could not be written here)", "four"]
    assert [line.text for line in read_lines(tmp_path)] == ["five"]


def test_lines_of_many_executions_are_read_at_once(tmp_path: Path) -> None:
    ids = [f"e{number}" for number in range(3 * logs.FEW_EXECUTIONS)]
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


def test_the_oldest_files_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_FILES", 2)
    for age, number in enumerate((1, 0, 3, 2)):
        (tmp_path / f"{number}{ENDING}").touch()
        os.utime(tmp_path / f"{number}{ENDING}", (age, age))
        (tmp_path / f"{number}{ENDING}{logs.OLDER}").touch()
    (tmp_path / "slot.lock").touch()
    make_room(tmp_path)
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == ["2.log", "2.log.1", "3.log", "3.log.1", "slot.lock"]


def test_bytes_that_programs_write_are_lines_like_others(kept: Kept, stream: TaggedStream) -> None:
    click.echo(b"by click", file=stream)  # type: ignore[arg-type]
    data = "é\n".encode()
    # A character may come in two halves, and not everything is text.
    assert [stream.buffer.write(part) for part in (data[:1], data[1:], b"\xff\n")] == [1, 2, 2]
    stream.buffer.write(memoryview(b"no end"))
    stream.buffer.flush()
    wrapped = io.TextIOWrapper(stream.detach(), encoding="utf-8", line_buffering=True)
    print("wrapped", file=wrapped)
    wrapped.close()
    print("and goes on", file=stream)
    told = ["by click", "é", "\\xff", "no end", "wrapped", "and goes on"]
    assert [text for _, _, text in texts(kept)] == told


def test_only_text_is_written_as_text(stream: TaggedStream) -> None:
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"bytes")  # type: ignore[arg-type]


def test_the_streams_are_what_programs_expect(stream: TaggedStream) -> None:
    stream.reconfigure(encoding="utf-8", line_buffering=True)
    assert (stream.name, stream.buffer.name, stream.buffer.fileno()) == ("<stdout>", "<stdout>", 1)
    assert stream.buffer.writable()
    assert isinstance(stream, io.TextIOBase)
    assert (stream.writable(), stream.fileno(), stream.encoding) == (True, 1, "utf-8")
