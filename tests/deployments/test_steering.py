"""What a person does to an execution of a deployed version works from where its code is not."""

import json
from typing import Any

import pytest

FLOWS = """
    import os
    from pathlib import Path
    from kitaru import checkpoint, flow, wait

    MARK = {mark!r}

    @checkpoint
    def fetch(url: str) -> str:
        return "<" + url + ">"

    @checkpoint
    def fragile(text: str) -> str:
        if not os.path.exists(MARK):
            raise ValueError("not yet")
        return text.upper()

    @flow
    def agent(url: str = "u", folder: Path = Path("x")) -> str:
        return fragile(fetch(url)) + folder.name

    @flow
    def asking() -> str:
        return "said " + wait(name="word", schema=str, timeout=1)
    """


@pytest.fixture
def deployed(machine: Any) -> Any:
    machine.mark = machine.folder / "mended"
    project = machine.project("project", {"flows.py": FLOWS.format(mark=str(machine.mark))})
    machine.program(project, "import flows; flows.agent.deploy(); flows.asking.deploy()")
    machine.here = machine.project("empty", {})
    return machine


def invoked(machine: Any, flow: str, *more: str) -> str:
    told = machine.kitaru(machine.here, "invoke", flow, "--no-wait", *more)
    return str(told).strip()


def ended(machine: Any, exec_id: str) -> Any:
    machine.until(lambda: machine.execution(exec_id).status.is_finished)
    return machine.execution(exec_id)


def result(execution: Any) -> Any:
    return json.loads(bytes(execution.result.json))


def test_a_failed_one_is_retried(deployed: Any) -> None:
    exec_id = invoked(deployed, "agent", "--input", '{"url": "a", "folder": "/tmp/b"}')
    assert ended(deployed, exec_id).status == "failed"
    deployed.mark.touch()
    deployed.kill_runners()
    told = deployed.kitaru(deployed.here, "executions", "retry", exec_id)
    assert told.split()[-1] == "<A>b"
    assert [call.call_id for call in deployed.execution(exec_id).checkpoints] == [
        "fetch",
        "fragile",
    ]


def test_an_answer_starts_a_runner_where_there_is_none(deployed: Any) -> None:
    exec_id = invoked(deployed, "asking")
    deployed.until(lambda: deployed.execution(exec_id).pending_waits)
    deployed.until(lambda: deployed.execution(exec_id).owner is None)
    deployed.kill_runners()
    told = deployed.kitaru(deployed.here, "executions", "input", exec_id, "--value", '"yes"')
    assert told.strip().endswith("A runner process goes on with it.")
    assert result(ended(deployed, exec_id)) == "said yes"


def test_a_cancel_reaches_it(deployed: Any) -> None:
    exec_id = invoked(deployed, "asking")
    deployed.until(lambda: deployed.execution(exec_id).pending_waits)
    deployed.kitaru(deployed.here, "executions", "cancel", exec_id)
    assert ended(deployed, exec_id).status == "cancelled"


def test_a_fork_runs_the_sources_version_with_other_inputs(deployed: Any) -> None:
    deployed.mark.touch()
    exec_id = invoked(deployed, "agent", "--input", '{"url": "a"}')
    assert result(ended(deployed, exec_id)) == "<A>x"
    told = deployed.kitaru(
        deployed.here, "executions", "replay", exec_id, "--from", "fragile",
        "--overrides", '{"checkpoint.fetch": "other"}', "--args", '{"folder": "y/z"}',
    )  # fmt: skip
    fork = told.split()[0]
    found = deployed.execution(fork)
    assert (result(found), found.deployment.version, found.original_exec_id) == (
        "OTHERz",
        1,
        exec_id,
    )
    refused = deployed.kitaru(
        deployed.here, "executions", "replay", exec_id, "--from", "fragile",
        "--args", '{"colour": 1}', fails=True,
    )  # fmt: skip
    assert "there is no input 'colour'; there are: " in refused


def test_no_process_runs_it_with_the_code_of_its_own_folder(deployed: Any) -> None:
    project = deployed.folder / "project"
    (project / "flows.py").write_text((project / "flows.py").read_text().replace("said", "SAID"))
    worker = deployed.start_command(project, "worker", "flows.py")
    exec_id = invoked(deployed, "asking")
    deployed.until(lambda: deployed.execution(exec_id).pending_waits)
    deployed.kitaru(project, "executions", "input", exec_id, "--value", '"yes"')
    assert result(ended(deployed, exec_id)) == "said yes"
    assert worker.poll() is None


def test_a_runner_gives_back_what_it_has_when_it_is_told_to_end(deployed: Any) -> None:
    exec_id = invoked(deployed, "asking")
    deployed.until(lambda: deployed.execution(exec_id).pending_waits)
    for pid in deployed.runners:
        deployed.terminate(pid)
    deployed.until(lambda: not deployed.runners)
    found = deployed.execution(exec_id)
    assert (found.status, found.owner, found.takeovers) == ("waiting", None, 0)
