"""`kitaru journal export`, `import` and `check`, as people type them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from kitaru.engine.history_file import read

Run = Callable[..., Result]
Ask = Callable[..., Any]

COMPLETED = "aaaa0001-1d9c-4f6e-9f56-0e9a1c3f7b11"
FLOWS = """
from kitaru import checkpoint, flow

@checkpoint
def fetch(url: str) -> str:
    open("ran", "a").write(url)
    return url

@flow
def agent(url: str) -> str:
    first = fetch(url)
    return first + fetch("b")

@flow
async def quick() -> str:
    return await fetch.aio("q")

if __name__ == "__main__":
    first = agent.run("a")
    print(first.exec_id, first.wait(), agent.run("a").wait(), quick.sync.run().wait())
"""


def kitaru_process(place: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kitaru", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.usefixtures("history")
def test_an_execution_is_written_into_a_file(kitaru: Run, place: Path) -> None:
    result = kitaru("journal", "export", COMPLETED[:8])
    assert result.exit_code == 0, result.stderr
    file = place / f"{COMPLETED}.history.jsonl"
    assert result.stdout.startswith(f"{file.name}: 6 events, ")
    history = read(file.read_bytes(), file.name)
    assert history.exec_id == COMPLETED
    assert len(history.blobs) == 1
    again = kitaru("journal", "export", COMPLETED)
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert kitaru("journal", "export", COMPLETED, "--force").exit_code == 0
    assert kitaru("journal", "export", COMPLETED, "other.jsonl").exit_code == 0
    assert (place / "other.jsonl").read_bytes() == file.read_bytes()
    streamed = kitaru("journal", "export", COMPLETED, "-")
    assert streamed.stdout_bytes == file.read_bytes()
    assert kitaru("journal", "export", COMPLETED, "no/such/folder").exit_code == 1


@pytest.mark.usefixtures("history")
def test_the_export_as_json(kitaru_json: Ask) -> None:
    item = kitaru_json("journal", "export", COMPLETED, "x.jsonl")["item"]
    assert (item["exec_id"], item["file"], item["events"]) == (COMPLETED, "x.jsonl", 6)
    assert item["missing"] == []


def test_what_is_not_there_cannot_be_exported_or_imported(kitaru: Run, place: Path) -> None:
    assert "There is no journal" in kitaru("journal", "export", COMPLETED).stderr
    missing = kitaru("journal", "import", "nothing.jsonl")
    assert missing.exit_code == 1
    assert "nothing.jsonl cannot be read" in missing.stderr
    assert list(place.iterdir()) == []


def test_histories_go_from_journal_to_journal_and_are_checked(place: Path) -> None:
    flows = place / "flows.py"
    flows.write_text(FLOWS, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "flows.py"], cwd=place, capture_output=True, text=True, check=True
    )
    exec_id = ran.stdout.split()[0]
    listed = json.loads(kitaru_process(place, "executions", "list", "-o", "json").stdout)["items"]
    assert len(listed) == 3
    (place / "kept").mkdir()
    for execution in listed:
        name = f"kept/{execution['flow_name']}-{execution['exec_id'][:4]}.history.jsonl"
        done = kitaru_process(place, "journal", "export", execution["exec_id"], name)
        assert done.returncode == 0, done.stderr
        if execution["exec_id"] == exec_id:
            exported = place / name
    effects = (place / "ran").read_text()

    # into another journal
    (place / "journal.db").rename(place / "old.db")
    imported = kitaru_process(place, "journal", "import", str(exported))
    assert imported.stdout == f"Execution {exec_id} (agent, completed) is here now.\n"
    imported = kitaru_process(place, "journal", "import", str(exported))
    assert imported.stdout == f"Execution {exec_id} (agent, completed) was here already.\n"
    assert kitaru_process(place, "journal", "verify").returncode == 0
    shown = kitaru_process(place, "executions", "get", exec_id, "-o", "json")
    assert json.loads(shown.stdout)["item"]["status"] == "completed"

    # against the code
    safe = kitaru_process(place, "check", "kept", "flows.py")
    assert safe.returncode == 0, safe.stdout + safe.stderr
    assert safe.stdout.count(": safe: ") == 3
    assert "agent, 4 events; it ends as recorded" in safe.stdout
    assert safe.stderr == "3 safe.\n"
    assert kitaru_process(place, "check", "kept").returncode == 0, "where it was recorded"
    changed = FLOWS.replace('fetch("b")', 'fetch("c")')
    flows.write_text(changed, encoding="utf-8")
    line = 1 + changed.splitlines().index('    return first + fetch("c")')
    broken = kitaru_process(place, "check", "kept", "flows.py")
    assert broken.returncode == 3
    assert f": diverges at flows.py:{line}, event 3: the call of `fetch` at " in broken.stdout
    assert broken.stderr == "1 safe, 2 diverging.\n"
    as_json = kitaru_process(place, "check", "kept", "flows.py", "-o", "json")
    assert as_json.returncode == 3
    items = json.loads(as_json.stdout)["items"]
    verdicts = sorted(item["verdict"]["judgement"] for item in items)
    assert verdicts == ["diverges", "diverges", "safe"]
    (diverged, *_) = [item for item in items if item["verdict"]["judgement"] == "diverges"]
    assert diverged["verdict"]["version"] == 3
    assert diverged["verdict"]["site"] == f"flows.py:{line}"
    assert "url: 'b' -> 'c'" in diverged["verdict"]["report"]

    # and where it cannot be told
    flows.write_text(FLOWS.replace("def agent", "def agent2"), encoding="utf-8")
    unknown = kitaru_process(place, "check", "kept", "flows.py")
    assert unknown.returncode == 4
    assert "unknown beyond event 0: flows.py has no flow named 'agent'" in unknown.stdout
    assert unknown.stderr == "1 safe, 2 unknown.\n"
    content = exported.read_text(encoding="utf-8")
    exported.write_text(content.replace('"url":"b"', '"url":"x"'), encoding="utf-8")
    flows.write_text(FLOWS, encoding="utf-8")
    damaged = kitaru_process(place, "check", "kept", "flows.py")
    assert damaged.returncode == 4
    assert f"{exported.name}:4: event 3 is altered" in damaged.stdout
    nothing = kitaru_process(place, "check", str(place / "kept"), "nowhere.py")
    assert nothing.returncode == 1
    assert kitaru_process(place, "check", "flows.py").returncode == 1
    assert kitaru_process(place, "check").returncode == 2
    assert (place / "ran").read_text() == effects, "a checkpoint has run"
