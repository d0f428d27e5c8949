"""Code that cannot be loaded, runners that die, bundles that are gone: named, and nothing lost."""

import os
import signal
import sqlite3
import textwrap
from typing import Any

import pytest

PLAIN = """
    from kitaru import checkpoint, flow

    @checkpoint
    def work(n: int) -> int:
        return n + 1

    @flow
    def agent(n: int = 1) -> int:
        return work(n)
    """
LEAVES = """
    import subprocess, time
    from concurrent.futures import ThreadPoolExecutor
    from kitaru import checkpoint, flow

    @checkpoint(cache=False)
    def work(n: int) -> int:
        ThreadPoolExecutor(1).submit(time.sleep, 600)
        left = subprocess.Popen(["sleep", "600"], close_fds=False)
        with open({left!r}, "a") as file:
            print(left.pid, file=file)
        return n

    @flow
    def agent(n: int = 1) -> int:
        return work(n)
    """
DEPLOY = "import {module}; print({module}.agent.deploy().version)"
INVOKE = """
    from kitaru import KitaruClient
    handle = KitaruClient().deployments.invoke(flow="agent"{more})
    print(handle.exec_id)
    """


def deploy(machine: Any, files: dict[str, str], module: str = "flows") -> str:
    project = machine.project("project", files)
    return str(machine.program(project, DEPLOY.format(module=module)).strip())


def started(machine: Any, more: str = "") -> str:
    """An execution of the default version, whose invoker is gone and has started no runner."""
    return str(machine.program(machine.project("empty", {}), INVOKE.format(more=more)).strip())


@pytest.mark.parametrize(
    ("top", "problem"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_code_that_cannot_be_loaded_is_named_and_tried_again_more_and_more_seldom(
    machine: Any, top: str, problem: str
) -> None:
    # What only the runner does not have: the producer has it.
    program = f"import os\nif 'bundles' in __file__:\n    {top}\n" + textwrap.dedent(PLAIN)
    deploy(machine, {"flows.py": program})
    exec_id = started(machine)
    machine.serve()
    machine.until(lambda: machine.execution(exec_id).load_failures >= 2)
    found = machine.execution(exec_id)
    assert found.status == "running"
    assert found.status_reason.startswith("version 1 of agent cannot be loaded: Loading flows")
    assert problem in found.status_reason
    assert found.due_at is not None
    here = machine.folder / "empty"
    shown = machine.kitaru(here, "executions", "get", exec_id)
    assert "no worker has it" in shown
    assert problem in shown
    assert "no worker has it" in machine.kitaru(here, "executions", "list")


def test_what_could_not_be_loaded_goes_on_when_it_can_and_is_resumed(machine: Any) -> None:
    mark = machine.folder / "mended"
    program = f"import os\nif 'bundles' in __file__ and not os.path.exists({str(mark)!r}):\n"
    program += "    import no_such_library\n" + textwrap.dedent(PLAIN)
    deploy(machine, {"flows.py": program})
    exec_id = started(machine)
    machine.serve()
    machine.until(lambda: machine.execution(exec_id).load_failures >= 2)
    mark.touch()
    told = machine.kitaru(machine.folder / "empty", "executions", "resume", exec_id)
    assert told.split()[-1] == "2"
    assert machine.execution(exec_id).load_failures == 0


def test_code_that_kills_whoever_loads_it_is_counted_with_the_take_overs(machine: Any) -> None:
    program = (
        "import os, signal\nif 'bundles' in __file__:\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    machine.environment["KITARU_LEASE_SECONDS"] = "1"
    deploy(machine, {"flows.py": program + textwrap.dedent(PLAIN)})
    exec_id = started(machine)
    machine.serve()
    machine.until(lambda: machine.execution(exec_id).takeovers >= 2)
    found = machine.execution(exec_id)
    assert found.status in ("running", "failed")


def test_a_runner_killed_while_it_loads_is_followed_by_one_that_runs(machine: Any) -> None:
    mark = machine.folder / "loading"
    program = f"import os, time\nif 'bundles' in __file__ and not os.path.exists({str(mark)!r}):\n"
    program += f"    open({str(mark)!r}, 'w').close()\n    time.sleep(600)\n"
    deploy(machine, {"flows.py": program + textwrap.dedent(PLAIN)})
    exec_id = started(machine)
    machine.serve()
    machine.until(mark.exists)
    assert machine.kill_runners() >= 1
    machine.until(lambda: machine.execution(exec_id).status.is_finished)
    found = machine.execution(exec_id)
    assert (found.status, found.takeovers) == ("completed", 1)


def test_code_that_loads_slowly_is_waited_for_and_given_back_by_who_is_told_to_end(
    machine: Any,
) -> None:
    # Longer than a lease lasts, and longer than a runner stays that has nothing to do.
    machine.environment |= {"KITARU_LEASE_SECONDS": "1", "KITARU_RUNNER_IDLE_SECONDS": "0.5"}
    mark = machine.folder / "go"
    program = (
        f"import os, time\nwhile 'bundles' in __file__ and not os.path.exists({str(mark)!r}):\n"
    )
    program += "    time.sleep(0.05)\n"
    deploy(machine, {"flows.py": program + textwrap.dedent(PLAIN)})
    exec_ids = [started(machine) for _ in range(2)]
    machine.serve()

    def head() -> Any:
        (found,) = [each for each in machine.heads() if each.stream.endswith(exec_ids[0])]
        return found

    first = machine.until(lambda: head() if head().owner else None)
    machine.until(lambda: head().lease_until > first.lease_until + 4_000_000)
    assert (head().owner, head().epoch) == (first.owner, first.epoch)
    # A lease that lasts: whoever has the execution next has been given it.
    machine.kill_workers()
    machine.terminate_runners()
    machine.until(lambda: machine.runners == [])
    assert [each.owner for each in machine.heads()] == [None, None]
    mark.touch()
    machine.serve()
    for exec_id in exec_ids:
        machine.until(lambda exec_id=exec_id: machine.execution(exec_id).status.is_finished)
        found = machine.execution(exec_id)
        assert (found.status, found.takeovers) == ("completed", 0)


def test_what_a_flow_leaves_behind_keeps_no_runner_and_no_runners_place(machine: Any) -> None:
    machine.environment |= {"KITARU_RUNNERS": "1", "KITARU_RUNNER_IDLE_SECONDS": "0.5"}
    left = machine.folder / "left"
    deploy(machine, {"flows.py": LEAVES.format(left=str(left))})
    machine.serve()
    try:
        for number in range(2):
            exec_id = started(machine, f', inputs={{"n": {number}}}')
            machine.until(lambda exec_id=exec_id: machine.execution(exec_id).status.is_finished)
            assert machine.execution(exec_id).status == "completed"
            machine.until(lambda: machine.runners == [])
        logs = (machine.folder / "journal.db-runners").glob("*.log")
        assert all("runner_cut_off" in log.read_text() for log in logs)
    finally:
        for pid in left.read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_a_bundle_that_is_gone_is_named_and_the_execution_is_not_lost(machine: Any) -> None:
    deploy(machine, {"flows.py": PLAIN})
    exec_id = started(machine)
    machine.kill_runners()
    connection = sqlite3.connect(machine.journal)
    (row,) = connection.execute("SELECT * FROM blobs").fetchall()
    connection.execute("DELETE FROM blobs")
    connection.commit()
    again = started(machine)
    machine.serve()
    machine.until(lambda: machine.execution(again).load_failures >= 1)
    found = machine.execution(again)
    assert "is not in the journal, so no worker has it" in found.status_reason
    connection.execute(f"INSERT INTO blobs VALUES ({', '.join('?' * len(row))})", row)
    connection.commit()
    connection.close()
    for each in (exec_id, again):
        machine.until(lambda each=each: machine.execution(each).status == "completed")


def test_inputs_that_are_gone_are_named_and_the_execution_is_not_lost(machine: Any) -> None:
    deploy(machine, {"flows.py": PLAIN.replace("n: int = 1", "n: int = 1, text: str = ''")})
    exec_id = started(machine, ', inputs={"text": "a" * 100_000}')
    machine.kill_runners()
    connection = sqlite3.connect(machine.journal)
    kept = connection.execute("SELECT * FROM blobs ORDER BY size DESC").fetchall()
    names = [each[1] for each in connection.execute("PRAGMA table_info(blobs)")]
    digest = kept[0][names.index("digest")]
    connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))
    connection.commit()
    machine.serve()
    machine.until(lambda: machine.execution(exec_id).load_failures >= 1)
    assert "it cannot be run: " in machine.execution(exec_id).status_reason
    connection.execute(f"INSERT INTO blobs VALUES ({', '.join('?' * len(names))})", kept[0])
    connection.commit()
    connection.close()
    machine.until(lambda: machine.execution(exec_id).status == "completed")


def test_a_cache_that_cannot_be_written_is_told_and_the_execution_goes_on_later(
    machine: Any,
) -> None:
    deploy(machine, {"flows.py": PLAIN})
    cache = machine.folder / "cache"
    cache.write_text("in the way")
    exec_id = started(machine)
    machine.serve()
    machine.until(lambda: machine.execution(exec_id).load_failures >= 1)
    assert "cannot be unpacked in" in machine.execution(exec_id).status_reason
    cache.unlink()
    machine.until(lambda: machine.execution(exec_id).status == "completed")


def test_a_flipped_byte_in_a_bundle_is_found_before_anything_is_loaded(machine: Any) -> None:
    deploy(machine, {"flows.py": PLAIN})
    connection = sqlite3.connect(machine.journal)
    connection.execute("UPDATE blobs SET data = zeroblob(length(data))")
    connection.commit()
    connection.close()
    exec_id = started(machine)
    machine.serve()
    machine.until(lambda: machine.execution(exec_id).load_failures >= 1)
    assert "version 1 of agent cannot be loaded" in machine.execution(exec_id).status_reason
    assert not list((machine.folder / "cache").rglob("flows.py"))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (
            """
            from kitaru import flow
            @flow
            def agent() -> int:
                return 1
            agent.deploy()
            """,
            "at a prompt or in a notebook",
        ),
        (
            """
            import nested
            nested.make().deploy()
            """,
            "inside a function",
        ),
    ],
)
def test_a_flow_that_is_in_no_file_of_its_own_is_not_deployed(
    machine: Any, program: str, problem: str
) -> None:
    nested = """
        from kitaru import flow
        def make():
            @flow
            def agent() -> int:
                return 1
            return agent
        """
    project = machine.project("project", {"nested.py": nested})
    assert problem in machine.program(project, program, fails=True)
    assert machine.kitaru(project, "flow", "list").startswith("No flows are deployed")


def test_two_flows_of_one_name_are_told_apart_and_a_moved_one_is_not(machine: Any) -> None:
    project = machine.project("project", {"one.py": PLAIN, "two.py": PLAIN})
    machine.program(project, DEPLOY.format(module="one"))
    told = machine.program(project, DEPLOY.format(module="two"), fails=True)
    assert "one.py" in told
    assert "two.py" in told
    (project / "one.py").unlink()
    assert machine.program(project, DEPLOY.format(module="two")).strip() == "2"


def test_inputs_that_pass_the_schema_and_not_the_flows_own_checks_fail_the_execution(
    machine: Any,
) -> None:
    program = """
        from pydantic import BaseModel, field_validator
        from kitaru import flow

        class Order(BaseModel):
            total: int

            @field_validator("total")
            @classmethod
            def even(cls, total):
                if total % 2:
                    raise ValueError("must be even")
                return total

        @flow
        def agent(order: Order = Order(total=2)) -> int:
            return order.total
        """
    deploy(machine, {"flows.py": program})
    here = machine.project("empty", {})
    good = machine.kitaru(here, "invoke", "agent", "--input", '{"order": {"total": 4}}')
    assert good.split()[-1] == "4"
    bad = machine.kitaru(here, "invoke", "agent", "--input", '{"order": {"total": 5}}', fails=True)
    assert "must be even" in bad
