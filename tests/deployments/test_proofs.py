"""Executions stay on their version, and each runs once, whatever is killed and whoever deploys."""

import collections
import json
import random
import time
from typing import Any

import pytest

WAITING = """
    import os
    from kitaru import checkpoint, flow, wait

    VERSION = {version}

    @checkpoint
    def before() -> list[int]:
        return [VERSION, os.getpid()]

    @checkpoint
    def after() -> int:
        return VERSION

    @flow
    def agent() -> dict:
        first = before()
        answer = wait(name="go", schema=str, timeout={timeout})
        return {{"before": first[0], "after": after(), "answer": answer}}
    """


def deploy(machine: Any, version: int, timeout: int = 1) -> None:
    program = WAITING.format(version=version, timeout=timeout)
    project = machine.project("project", {"flows.py": program})
    told = machine.program(project, "import flows; print(flows.agent.deploy().version)")
    assert told.strip() == str(version)


def invoke(machine: Any, *more: str) -> str:
    told = machine.kitaru(
        machine.project("empty", {}), "invoke", "agent", "--no-wait", *more, "-o", "json"
    )
    exec_id: str = json.loads(told)["item"]["exec_id"]
    return exec_id


def test_executions_stay_on_their_version_through_deploys_crashes_and_waits(machine: Any) -> None:
    machine.serve()
    deploy(machine, 1, timeout=600)
    held = invoke(machine)
    machine.until(lambda: machine.execution(held).pending_waits)
    deploy(machine, 2)
    parked = invoke(machine)
    machine.until(lambda: machine.execution(parked).pending_waits)
    old = invoke(machine, "--version", "1")
    machine.until(lambda: machine.execution(old).pending_waits)
    machine.kill_runners()
    deploy(machine, 3)
    for exec_id in (held, parked, old):
        machine.kitaru(machine.folder / "empty", "executions", "input", exec_id, "--value", '"yes"')
    results = {}
    for exec_id, version in ((held, 1), (parked, 2), (old, 1)):
        machine.until(lambda exec_id=exec_id: machine.execution(exec_id).status.is_finished)
        found = machine.execution(exec_id)
        results[exec_id] = json.loads(bytes(found.result.json))
        assert found.deployment.version == version
        assert len(found.checkpoints) == 2
        expected = {"before": version, "after": version, "answer": "yes"}
        assert results[exec_id] == expected


BODIES = """
    import os, time
    from kitaru import checkpoint, flow

    FILE = {file!r}

    def note(line):
        descriptor = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, (line + "\\n").encode())
        os.close(descriptor)

    @checkpoint
    def step(number: int, turn: int) -> int:
        note(f"{{number}} {{turn}} {{os.getpid()}}")
        time.sleep(0.05)
        return number + turn

    @flow
    def agent(number: int = 0) -> int:
        return sum(step(number, turn) for turn in range(3))
    """
INVOKE_MANY = """
    from kitaru import KitaruClient
    deployments = KitaruClient().deployments
    for number in range({first}, {last}):
        handle = deployments.invoke(
            flow="agent", inputs={{"number": number}}, idempotency_key=str(number)
        )
        print(number, handle.exec_id, flush=True)
    """
MANY = 200
BODIES_A_KILL = 30
"""By how much they get on between two kills, so that a fast machine does not outrun them."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_invocations_each_run_once_while_runners_are_killed(machine: Any) -> None:
    machine.environment["KITARU_RUNNERS"] = "4"
    file = machine.folder / "bodies.txt"
    project = machine.project("project", {"flows.py": BODIES.format(file=str(file))})
    machine.program(project, "import flows; flows.agent.deploy()")
    machine.serve()
    here = machine.project("empty", {})
    invokers = [
        machine.start(here, INVOKE_MANY.format(first=first, last=first + MANY // 2))
        for first in (0, MANY // 2)
    ]
    chance = random.Random(4)
    killed: list[int] = []
    most_at_once = 0
    end = time.monotonic() + 400
    while not all_done(machine):
        assert time.monotonic() < end, "they never all ended"
        runners = machine.runners
        most_at_once = max(most_at_once, len(runners))
        begun = len(file.read_text().splitlines()) if file.exists() else 0
        if runners and len(killed) < 8 and begun > BODIES_A_KILL * (len(killed) + 1):
            killed.append(machine.kill(chance.choice(runners)))
        time.sleep(0.05)
    told = dict(line.split() for each in invokers for line in each.communicate()[0].splitlines())
    assert len(told) == len(set(told.values())) == MANY
    assert len(killed) >= 3
    assert most_at_once <= 4
    bodies = collections.Counter(
        tuple(map(int, line.split()[:2])) for line in file.read_text().splitlines()
    )
    for number, exec_id in told.items():
        found = machine.execution(exec_id)
        assert found.status == "completed"
        assert json.loads(bytes(found.result.json)) == 3 * int(number) + 3
        assert [call.call_id for call in found.checkpoints] == ["step", "step#2", "step#3"]
        for turn in range(3):
            # Once more for each take-over at most: never again after the record.
            assert 1 <= bodies[int(number), turn] <= 1 + found.takeovers
    assert sum(bodies.values()) <= 3 * MANY + sum(
        machine.execution(exec_id).takeovers for exec_id in told.values()
    )


def all_done(machine: Any) -> bool:
    heads = machine.heads()
    return len(heads) == MANY and all(head.state == "completed" for head in heads)


def test_eight_that_deploy_at_once_make_eight_versions_without_gaps(machine: Any) -> None:
    program = """
        import sys
        from kitaru import flow

        @flow
        def agent() -> int:
            return {number}

        if __name__ == "__main__":
            print(agent.deploy(tags={{"default": True, "shared": False}}).version)
        """
    projects = [
        machine.project(f"project{number}", {"flows.py": program.format(number=number)})
        for number in range(8)
    ]
    processes = [machine.start_file(project, "flows.py") for project in projects]
    versions = []
    for process in processes:
        told, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors
        versions.append(int(told))
    assert sorted(versions) == list(range(1, 9))
    listed = json.loads(
        machine.kitaru(projects[0], "flow", "deployments", "list", "agent", "-o", "json")
    )["items"]
    assert [item["version"] for item in listed] == list(range(8, 0, -1))
    assert [item["version"] for item in listed if "default" in item["tags"]] == [8]
    assert all("shared" in item["tags"] for item in listed)
    assert len({item["bundle"] for item in listed}) == 8
    # Each version is what its own deployer had.
    number = versions.index(8)
    told = machine.kitaru(projects[0], "invoke", "agent")
    assert told.split()[-1] == str(number)
