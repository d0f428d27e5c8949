"""What is printed is found by where it was printed; no file grows for ever."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import click
import msgspec
import pytest

from kitaru.engine.context import CheckpointScope, FlowScope, scope
from kitaru.stacks import logs
from kitaru.stacks.log_reading import read_lines
from kitaru.stacks.logs import (
    ENDING,
    LogLine,
    TaggedStream,
    make_room,
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
