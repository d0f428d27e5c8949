"""New code is judged by what is under way before it is deployed, and takes over what it fits."""

import json
from typing import Any

import pytest

FLOW = """
    import os
    from kitaru import checkpoint, flow, wait

    {top}

    @checkpoint
    def fetch(url: str) -> str:
        return "{version}" + url

    @checkpoint
    def send(text: str) -> str:
        return "{version}" + text

    @flow
    def agent(url: str = "u") -> str:
        found = {first}
        wait(name=url, timeout=1)
        return send(found)
    """


def write(machine: Any, version: str, first: str = "fetch(url)", top: str = "") -> Any:
    program = FLOW.format(version=version, first=first, top=top)
    return machine.project("project", {"flows.py": program})


@pytest.fixture
def under_way(machine: Any) -> Any:
    """Two executions of version 1 that wait, and one of the project's own code."""
    project = write(machine, "1")
    machine.kitaru(project, "deploy", "flows.py:agent", "--input", '{"url": "u"}')
    machine.serve()
    machine.ids = []
    for url in ("a", "b"):
        told = machine.kitaru(
            project, "invoke", "agent", "--input", json.dumps({"url": url}), "--no-wait"
        )
        machine.ids.append(told.strip())
    machine.until(lambda: all(parked(machine, each) for each in machine.ids))
    return machine


def parked(machine: Any, exec_id: str) -> bool:
    found = machine.execution(exec_id)
    return found.status == "waiting" and found.owner is None


def checked(machine: Any, code: int) -> dict[str, Any]:
    told = machine.kitaru(
        machine.folder / "project", "deploy", "flows.py:agent", "--check", "-o", "json",
        code=code,
    )  # fmt: skip
    items = json.loads(told)["items"]
    return {item["exec_id"]: item for item in items}


def test_code_that_fits_is_safe_and_code_that_does_not_is_told_where(under_way: Any) -> None:
    machine = under_way
    before = [machine.execution(each).version for each in machine.ids]
    write(machine, "2")
    found = checked(machine, code=0)
    assert {each: item["verdict"]["judgement"] for each, item in found.items()} == dict.fromkeys(
        machine.ids, "safe"
    )
    assert {item["deployed"] for item in found.values()} == {1}
    write(machine, "3", first='send("changed")')
    found = checked(machine, code=3)
    for item in found.values():
        assert item["verdict"]["judgement"] == "diverges"
        assert item["verdict"]["site"].startswith("flows.py:")
        assert item["verdict"]["version"] == 2
    shown = machine.kitaru(
        machine.folder / "project", "deploy", "flows.py:agent", "--check", code=3
    )
    assert "diverges at flows.py:" in shown
    # Nothing was deployed, and nothing written.
    assert [machine.execution(each).version for each in machine.ids] == before
    listed = machine.kitaru(machine.folder, "flow", "deployments", "list", "agent", "-o", "json")
    assert json.loads(listed)["count"] == 1


def test_what_is_safe_is_moved_and_ends_with_the_new_code(under_way: Any) -> None:
    machine = under_way
    project = write(machine, "2")
    told = machine.kitaru(project, "deploy", "flows.py:agent", "--input", '{"url": "u"}',
        "--move-safe", "-o", "json")  # fmt: skip
    item = json.loads(told)["item"]
    assert item["deployment"]["version"] == 2
    assert [(each["exec_id"], each["is_moved"]) for each in item["executions"]] == [
        (each, True) for each in machine.ids
    ]
    for exec_id, url in zip(machine.ids, "ab", strict=True):
        machine.kitaru(project, "executions", "input", exec_id)
        machine.until(lambda exec_id=exec_id: machine.execution(exec_id).status.is_finished)
        found = machine.execution(exec_id)
        assert found.deployment.version == 2
        assert json.loads(bytes(found.result.json)) == f"21{url}"


def test_what_diverges_and_what_runs_is_left_on_its_version(under_way: Any) -> None:
    machine = under_way
    project = write(machine, "2", first='fetch(url) if url == "a" else send(url)')
    told = machine.kitaru(project, "deploy", "flows.py:agent", "--input", '{"url": "u"}',
        "--move-safe", "-o", "json")  # fmt: skip
    moved = {each["exec_id"]: each for each in json.loads(told)["item"]["executions"]}
    first, second = machine.ids
    assert moved[first]["is_moved"]
    assert not moved[second]["is_moved"]
    assert moved[second]["reason"].startswith("diverges")
    for exec_id, version in ((first, 2), (second, 1)):
        machine.kitaru(project, "executions", "input", exec_id)
        machine.until(lambda exec_id=exec_id: machine.execution(exec_id).status.is_finished)
        found = machine.execution(exec_id)
        assert (found.status, found.deployment.version) == ("completed", version)


def test_code_that_cannot_be_loaded_is_told_before_anything_is_deployed(under_way: Any) -> None:
    machine = under_way
    project = write(machine, "2", top="if 'candidate' in __file__: import no_such_library")
    for option in ("--check", "--move-safe"):
        told = machine.kitaru(
            project, "deploy", "flows.py:agent", "--input", '{"url": "u"}', option, code=1
        )
        assert "No module named 'no_such_library'" in told
    write(machine, "2", top="if 'candidate' in __file__: os._exit(7)")
    told = machine.kitaru(project, "deploy", "flows.py:agent", "--check", code=1)
    assert "exit code 7" in told
    listed = machine.kitaru(machine.folder, "flow", "deployments", "list", "agent", "-o", "json")
    assert json.loads(listed)["count"] == 1


def test_a_body_that_ends_the_process_hides_none_of_the_other_executions(under_way: Any) -> None:
    machine = under_way
    first, second = machine.ids
    write(machine, "2", first='fetch(url) if url == "b" else os._exit(7)')
    found = checked(machine, code=4)
    assert list(found) == [first, second]
    assert found[first]["verdict"]["judgement"] == "unknown"
    assert found[first]["verdict"]["summary"].endswith("ended with exit code 7")
    assert found[second]["verdict"]["judgement"] == "safe"
