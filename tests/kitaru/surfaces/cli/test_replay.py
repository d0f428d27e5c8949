"""Executions are forked from the command line, and shown with what they have taken over."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Process = Callable[..., "subprocess.CompletedProcess[str]"]

FLOWS = """
from dataclasses import dataclass
from pathlib import Path

import kitaru
from kitaru import checkpoint, flow

@dataclass
class Page:
    url: str
    text: str

def note(what: str) -> None:
    with Path("ran").open("a") as file:
        file.write(what + "\\n")

@checkpoint
def fetch(url: str) -> Page:
    note("fetch")
    return Page(url, "bad" if url == "old" else "fine")

@checkpoint
def publish(page: Page, tags: set[str]) -> str:
    note("publish")
    if page.text == "bad":
        raise ValueError("bad text")
    return f"{page.url} is {page.text}, {sorted(tags)}"

@flow
def pipe(url: str, tags: set[str] | None = None) -> str:
    return publish(fetch(url), tags or set())

@flow
def asks() -> str:
    page = fetch("new")
    who = kitaru.wait(schema=str, name="who", timeout=0)
    return f"{page.url} by {who}"
"""


@pytest.fixture
def source(process: Process, place: Path) -> str:
    """An execution that has failed in its last call."""
    (place / "flows.py").write_text(FLOWS)
    failed = process("run", "flows.py:pipe", "--args", '{"url": "old"}')
    assert failed.returncode == 1
    return failed.stdout.splitlines()[0]


def ran(place: Path) -> list[str]:
    return (place / "ran").read_text().split()


def as_json(process: Process, *arguments: str) -> Any:
    answer = process(*arguments, "-o", "json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)["item"]


def test_a_fork_runs_from_the_call_on_and_shows_its_result(
    source: str, process: Process, place: Path
) -> None:
    before = process("journal", "show", source).stdout
    page = json.dumps({"checkpoint.fetch": {"url": "old", "text": "mended"}})
    fork = process("executions", "replay", source[:8], "--from", "publish", "--overrides", page)
    assert fork.returncode == 0, fork.stderr
    new_id, result = fork.stdout.splitlines()
    assert result == "old is mended, []"
    assert "reused: fetch" in fork.stderr
    assert ran(place) == ["fetch", "publish", "publish"]
    assert process("journal", "show", source).stdout == before

    assert new_id in process("executions", "get", source).stdout
    shown = process("executions", "get", new_id).stdout
    assert f"{source}, from publish on; changed: checkpoint.fetch" in shown
    assert "override" in shown
    told = as_json(process, "executions", "get", new_id)
    assert told["forked_from"]["exec_id"] == told["original_exec_id"] == source
    assert told["forked_from"]["reused"] == ["fetch"]
    calls = {call["call_id"]: call for call in told["checkpoints"]}
    assert calls["fetch"]["original_exec_id"] == source
    assert calls["fetch"]["is_overridden"] is True
    assert calls["publish"]["original_exec_id"] is None
    assert as_json(process, "executions", "get", source)["forks"] == [new_id]
    assert "reused: fetch" in process("journal", "show", new_id).stdout
    assert process("journal", "verify").returncode == 0


def test_other_arguments_become_what_the_flow_says(source: str, process: Process) -> None:
    inputs = json.dumps({"url": "new", "tags": ["b", "a", "a"]})
    told = as_json(process, "executions", "replay", source, "--from", "fetch", "--args", inputs)
    assert told["result"] == "new is fine, ['a', 'b']"


def test_the_arguments_may_come_from_a_file(source: str, process: Process, place: Path) -> None:
    (place / "inputs.json").write_text('{"url": "new"}')
    told = as_json(
        process, "executions", "replay", source, "--from", "fetch", "--args", "@inputs.json"
    )
    assert told["result"] == "new is fine, []"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--from", "nope"], "come to: fetch, publish"),
        (["--from", "fetch", "--args", '{"uri": 1}'], "there is no argument 'uri'"),
        (["--from", "fetch", "--args", '{"url": 1}'], "url"),
        (["--from", "fetch", "--args", "[1]"], "an object is needed"),
        (["--from", "fetch", "--overrides", "{"], "not valid JSON"),
        (["--from", "fetch", "--overrides", '{"fetch": 1}'], "Did you mean 'checkpoint.fetch'"),
        (["--from", "publish", "--overrides", '{"checkpoint.fetch": {"url": 1}}'], "fetch"),
        ([], "--from"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_made(
    source: str, process: Process, options: list[str], text: str
) -> None:
    answer = process("executions", "replay", source, *options)
    assert answer.returncode != 0
    assert text in answer.stderr
    assert "Traceback" not in answer.stderr
    assert as_json(process, "executions", "get", source)["forks"] == []


def test_the_same_key_makes_one_fork(source: str, process: Process) -> None:
    def made(*options: str) -> "subprocess.CompletedProcess[str]":
        return process(
            "executions", "replay", source, "--no-wait", "--idempotency-key", "k", *options
        )

    first, again = made("--from", "publish"), made("--from", "publish")
    assert first.returncode == again.returncode == 0, again.stderr
    assert first.stdout == again.stdout
    other = made("--from", "fetch")
    assert other.returncode == 1
    assert "key 'k' of flow 'pipe'" in other.stderr
    assert as_json(process, "executions", "get", source)["forks"] == [first.stdout.strip()]


def test_a_wait_is_answered_by_a_fork(source: str, process: Process) -> None:
    exec_id = process("run", "flows.py:asks", "--no-wait").stdout.split()[0]
    process("executions", "resume", exec_id, "--timeout", "3")
    told = as_json(
        process,
        "executions",
        "replay",
        exec_id,
        "--from",
        "who",
        "--overrides",
        '{"wait.who": "me"}',
    )
    assert told["result"] == "new by me"
    bad = process(
        "executions", "replay", exec_id, "--from", "who", "--overrides", '{"wait.who": 3}'
    )
    assert "does not fit wait 'who'" in bad.stderr


def test_what_runs_anew_is_reused_only_where_that_is_asked_for(
    process: Process, place: Path
) -> None:
    (place / "flows.py").write_text(FLOWS)
    source = process("run", "flows.py:pipe", "--args", '{"url": "new"}').stdout.splitlines()[0]
    anew = as_json(process, "executions", "replay", source, "--from", "fetch")
    assert anew["result"] == "new is fine, []"
    assert ran(place) == ["fetch", "publish"] * 2
    reusing = as_json(process, "executions", "replay", source, "--from", "fetch", "--cache")
    assert reusing["result"] == anew["result"]
    # The call that is named runs in any case.
    assert ran(place) == [*["fetch", "publish"] * 2, "fetch"]
