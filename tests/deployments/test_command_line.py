"""What Python can do with deployed versions, the command line can do from an empty folder."""

import json
from typing import Any

import pytest

FLOWS = {
    "pyproject.toml": "",
    "flows.py": """
        import sys
        from kitaru import checkpoint, flow

        @checkpoint
        def shout(text: str) -> str:
            print("shouting", text)
            return text.upper()

        @flow
        def agent(text: str, times: int = 1) -> str:
            print("the body", file=sys.stderr)
            return shout(text) * times
        """,
}


@pytest.fixture
def deployed(machine: Any) -> Any:
    project = machine.project("project", FLOWS)
    told = machine.kitaru(project, "deploy", "flows.py:agent", "--input", '{"text": "a"}')
    assert "Version 1 of agent, default*" in told
    machine.here = machine.project("empty", {})
    return machine


def as_json(machine: Any, *arguments: str) -> Any:
    return json.loads(machine.kitaru(machine.here, *arguments, "-o", "json"))


def test_a_version_is_invoked_and_its_lines_are_found(deployed: Any) -> None:
    item = as_json(deployed, "invoke", "agent", "--input", '{"text": "b", "times": 2}')["item"]
    assert (item["result"], item["status"]) == ("BB", "completed")
    lines = as_json(deployed, "executions", "logs", item["exec_id"])["items"]
    told = [(line["text"], line["stream"], line.get("call", "")) for line in lines]
    assert told == [("the body", "stderr", ""), ("shouting b", "stdout", "shout")]
    other = as_json(deployed, "invoke", "agent")["item"]
    told = as_json(deployed, "executions", "logs", other["exec_id"], "--checkpoint", "shout")
    assert [line["text"] for line in told["items"]] == ["shouting a"]
    told = as_json(deployed, "flow", "deployments", "logs", "agent", "--version", "1")
    assert told["count"] == 4
    shown = deployed.kitaru(deployed.here, "executions", "get", other["exec_id"])
    assert "Version" in shown


NOISY = """
    import os, subprocess, sys
    from kitaru import checkpoint, flow

    if "bundles" in __file__:
        print("loading")

    @checkpoint
    def work() -> str:
        sys.stdout.reconfigure(line_buffering=True)
        sys.stdout.buffer.write(b"bytes\\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        return "done"

    @flow
    def noisy() -> str:
        return work()
    """


def test_what_runners_say_beside_an_execution_is_found(machine: Any) -> None:
    machine.here = machine.project("project", {"noisy.py": NOISY})
    machine.kitaru(machine.here, "deploy", "noisy.py")
    item = as_json(machine, "invoke", "noisy")["item"]
    assert item["result"] == "done"
    told = as_json(machine, "executions", "logs", item["exec_id"])["items"]
    assert [line["text"] for line in told] == ["bytes"]
    for command in (
        ["executions", "logs", item["exec_id"]],
        ["flow", "deployments", "logs", "noisy"],
    ):
        told = as_json(machine, *command, "--source", "runner")["items"]
        assert [line["text"] for line in told] == ["loading", "from a child"]
    refused = ["executions", "logs", item["exec_id"], "--source", "runner"]
    machine.kitaru(machine.here, *refused, "--checkpoint", "work", code=2)
    machine.kitaru(machine.here, *refused, "--follow", code=2)


ASKS = """
    from kitaru import checkpoint, flow, wait

    @checkpoint(cache=False)
    def say(text: str) -> str:
        print(text)
        return text

    @flow
    def asks(fail: bool = False) -> str:
        say("before")
        answer = wait(name="approve", question="Send it?", schema=bool)
        say(f"after {answer}")
        assert not fail
        return "sent"
    """


@pytest.mark.parametrize("fail", [False, True])
def test_lines_are_followed_to_the_end_of_an_execution(machine: Any, fail: bool) -> None:
    machine.here = machine.project("project", {"asks.py": ASKS})
    machine.kitaru(machine.here, "deploy", "asks.py")
    machine.serve()
    inputs = json.dumps({"fail": fail})
    exec_id = as_json(machine, "invoke", "asks", "--no-wait", "--input", inputs)["item"]["exec_id"]
    command = ["executions", "logs", exec_id, "--follow"]
    following = machine.start_kitaru(machine.here, *command, "-o", "json")
    told = [json.loads(following.stdout.readline()) for _ in range(2)]
    assert [each["event"] for each in told] == ["log", "waiting"]
    assert told[0]["item"]["text"] == "before"
    [wait] = told[1]["item"]["waits"]
    assert (wait["wait_id"], wait["question"]) == ("approve#1", "Send it?")
    machine.kitaru(machine.here, "executions", "input", exec_id, "--value", "true")
    rest, _ = following.communicate(timeout=60)
    log, end = map(json.loads, rest.splitlines())
    assert (log["event"], log["item"]["text"]) == ("log", "after True")
    status = "failed" if fail else "completed"
    assert end == {"event": "terminal", "item": {"exec_id": exec_id, "status": status}}
    assert following.returncode == int(fail)

    # One that has ended: all that was printed, for people.
    shown = machine.kitaru(machine.here, *command, "--limit", "1", code=int(fail))
    assert "after True" in shown
    assert "before" not in shown
    assert ("The execution is failed." in shown) == fail


def test_versions_and_tags_are_shown_moved_and_deleted(deployed: Any) -> None:
    project = deployed.folder / "project"
    deployed.kitaru(project, "build", "flows.py:agent", "--input", '{"text": "b"}')
    [flow] = as_json(deployed, "flow", "list")["items"]
    assert (flow["flow"], flow["versions"], flow["tags"]) == ("agent", [1, 2], {"default": [1]})
    deployed.kitaru(deployed.here, "flow", "tag", "agent", "beta", "--version", "2")
    assert as_json(deployed, "invoke", "agent", "--tag", "beta")["item"]["result"] == "B"
    deployed.kitaru(deployed.here, "flow", "untag", "agent", "beta", "--version", "2")
    shown = as_json(deployed, "flow", "deployments", "show", "agent", "--version", "2")["item"]
    assert (shown["tags"], shown["default_inputs"]) == ({}, ["text"])
    assert shown["defaults"] == {"text": "b"}
    told = deployed.kitaru(deployed.here, "flow", "deployments", "show", "agent")
    assert "Entry point" in told
    assert "Options" not in told
    deployed.kitaru(
        project, "build", "flows.py:agent", "--input", '{"text": "c"}', "--retries", "2"
    )
    told = deployed.kitaru(deployed.here, "flow", "deployments", "show", "agent", "--version", "3")
    assert "retries 2" in told
    deployed.kitaru(deployed.here, "flow", "deployments", "delete", "agent", "--version", "3")
    refused = deployed.kitaru(
        deployed.here, "flow", "deployments", "delete", "agent", "--version", "1", fails=True
    )
    assert "exclusive tag(s): default" in refused
    deployed.kitaru(deployed.here, "flow", "tag", "agent", "default", "--version", "2")
    deployed.kitaru(deployed.here, "flow", "deployments", "delete", "agent", "--version", "1")
    items = as_json(deployed, "flow", "deployments", "list", "agent")["items"]
    assert [item["version"] for item in items] == [2]
    for text in ("flow list", "flow show agent", "flow deployments list agent"):
        assert "2" in deployed.kitaru(deployed.here, *text.split())
    text = deployed.kitaru(deployed.here, "flow", "deployments", "show", "agent")
    assert "flows.py:agent" in text
    assert "Deployed with  text='b'" in text


def test_without_waiting_a_runner_is_left_that_finishes_it(deployed: Any) -> None:
    item = as_json(deployed, "invoke", "agent", "--no-wait")["item"]
    deployed.until(lambda: deployed.execution(item["exec_id"]).status.is_finished)
    again = as_json(deployed, "invoke", "agent", "--idempotency-key", "k")["item"]
    assert as_json(deployed, "invoke", "agent", "--idempotency-key", "k")["item"] == again


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["invoke", "agent", "--input", '{"times": "x"}'], "inputs.times"),
        (["invoke", "agent", "--version", "7"], "Version 7 of flow 'agent' does not exist"),
        (["invoke", "agent", "--version", "1", "--tag", "a"], "mutually exclusive"),
        (["invoke", "other"], "No deployments found"),
        (["flow", "show", "other"], "No deployments found"),
        (["flow", "tag", "agent", "kitaru:a", "--version", "1"], "reserved"),
        (["deploy", "nowhere.py:agent"], "no file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(deployed: Any, command: list[str], text: str) -> None:
    told = deployed.kitaru(deployed.here, *command, fails=True)
    assert text in told
    assert "Traceback" not in told
    error = json.loads(deployed.kitaru(deployed.here, *command, "-o", "json", fails=True))
    assert error["error"]["type"].startswith("Kitaru") or "NotLoadable" in error["error"]["type"]


def test_a_flow_without_its_inputs_is_not_deployed(deployed: Any) -> None:
    project = deployed.folder / "project"
    told = deployed.kitaru(project, "deploy", "flows.py:agent", fails=True)
    assert "'text' is missing" in told
    assert as_json(deployed, "flow", "list")["items"][0]["latest"] == 1


def test_nothing_is_made_by_looking(machine: Any) -> None:
    here = machine.project("empty", {})
    assert "No flows are deployed" in machine.kitaru(here, "flow", "list")
    machine.kitaru(here, "invoke", "agent", fails=True)
    assert not machine.journal.exists()
