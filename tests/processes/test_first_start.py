"""Many processes come to a journal that nobody has made yet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from journal import HeadQuery, open_reader

PROCESSES = 20
SCRIPT = """
import os, sys
import kitaru
from kitaru import checkpoint, flow

@checkpoint(cache=False)
def part(number: int) -> int:
    return number

@flow
def parts(number: int) -> int:
    return part(number) + part.submit(1).result()

if __name__ == "__main__":
    sys.stdin.readline()  # all begin at once
    print(parts.run(int(sys.argv[1])).wait())
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_processes_open_a_new_journal_at_once(tmp_path: Path, journal_file: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(number)],
            env={**os.environ, "KITARU_JOURNAL": str(journal_file)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=200) for process in processes]
    assert [output for output, _ in ended] == [f"{n + 1}\n" for n in range(PROCESSES)], ended
    with open_reader(str(journal_file)) as reader:
        assert reader.verify() == []
        heads = reader.heads(HeadQuery(category="execution"))
    assert [head.state for head in heads] == ["completed"] * PROCESSES
