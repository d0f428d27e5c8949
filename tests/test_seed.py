"""The snippets of the product's description run as they are written there."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

RunProgram = Callable[..., "CompletedProcess[str]"]

DEFINITIONS = """
import kitaru
from kitaru import checkpoint, flow

@checkpoint
def fetch_data(url: str) -> str:
    if url == "bad-input":
        raise ValueError("there is no such place")
    return f"<{url}>"

@checkpoint
def process_data(data: str) -> str:
    return data.upper()
"""

DEFINING = """
from kitaru import flow

@flow
def my_agent(url: str) -> str:
    data = fetch_data(url)
    return process_data(data)
"""


@pytest.fixture
def run_snippets(run_program: RunProgram) -> Callable[..., list[str]]:
    """Runs snippets one after the other as one script, and gives the lines that it printed."""

    def run(*snippets: str) -> list[str]:
        done = run_program("\n".join(map(textwrap.dedent, [DEFINITIONS, DEFINING, *snippets])))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


def test_a_flow_is_run_and_waited_for(run_snippets: Callable[..., list[str]]) -> None:
    lines = run_snippets(
        """
        handle = my_agent.run(url="https://example.com")
        print(handle.exec_id)   # unique execution identifier
        # ... do other work ...
        result = handle.wait()   # block until finished
        """,
        """
        print(result, handle.get(), handle.status, isinstance(handle.exec_id, str))
        """,
    )
    assert len(lines[0]) == 36
    assert lines[1] == "<HTTPS://EXAMPLE.COM> <HTTPS://EXAMPLE.COM> completed True"


def test_a_flow_is_run_in_one_line(run_snippets: Callable[..., list[str]]) -> None:
    lines = run_snippets(
        """
        result = my_agent.run(url="https://example.com").wait()
        """,
        "print(result)",
    )
    assert lines == ["<HTTPS://EXAMPLE.COM>"]


def test_a_stack_is_targeted_for_one_execution(run_snippets: Callable[..., list[str]]) -> None:
    lines = run_snippets(
        """
        kitaru.create_stack("production", activate=False)
        """,
        """
        handle = my_agent.run(url="https://example.com", stack="production")
        """,
        """
        print(handle.wait())
        print(kitaru.KitaruClient().executions.get(handle.exec_id).stack_name)
        plain = my_agent.run(url="https://example.com")
        print(kitaru.KitaruClient().executions.get(plain.exec_id).stack_name)
        """,
    )
    assert lines == ["<HTTPS://EXAMPLE.COM>", "production", "local"]


def test_the_stack_follows_the_described_precedence(
    run_snippets: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kitaru]\nstack = "five"\n', encoding="utf-8")
    lines = run_snippets(
        """
        import os

        for name in ("one", "two", "three", "four", "five", "six"):
            kitaru.create_stack(name, activate=False)

        @flow(stack="two")
        def decorated() -> None: ...

        @flow
        def plain() -> None: ...

        def placed(handle):
            return kitaru.KitaruClient().executions.get(handle.exec_id).stack_name

        os.environ["KITARU_STACK"] = "four"
        kitaru.configure(stack="three")
        kitaru.use_stack("six")
        print(placed(decorated.run(stack="one")), placed(decorated.run()), placed(plain.run()))
        kitaru.configure(stack=None)
        print(placed(plain.run()))
        del os.environ["KITARU_STACK"]
        print(placed(plain.run()))
        os.remove("pyproject.toml")
        kitaru.use_stack("six")
        print(placed(plain.run()))
        """
    )
    assert lines == ["one two three", "four", "five", "six"]


def test_get_does_not_wait(run_snippets: Callable[..., list[str]]) -> None:
    lines = run_snippets(
        """
        import threading
        gate = threading.Event()

        @checkpoint
        def hold() -> None:
            gate.wait()

        @flow
        def slow() -> str:
            hold()
            return "done"

        handle = slow.run()
        try:
            handle.get()
        except kitaru.KitaruStateError as error:
            print(handle.exec_id in str(error), handle.status)
        gate.set()
        handle.wait()
        print(handle.get(), handle.status)
        """
    )
    assert lines == ["True running", "done completed"]


def test_errors_surface_typed(run_snippets: Callable[..., list[str]]) -> None:
    lines = run_snippets(
        """
        import kitaru

        try:
            result = my_agent.run(url="bad-input").wait()
        except kitaru.KitaruExecutionError as exc:
            print(exc.exec_id, exc.status, exc.failure_origin)
        """,
        """
        try:
            my_agent.run(url="bad-input").wait()
        except kitaru.KitaruExecutionError as exc:
            print(type(exc).__name__, exc, type(exc.__cause__).__name__)
        """,
    )
    exec_id, status, origin = lines[0].split()
    assert (len(exec_id), status, origin) == (36, "failed", "user_code")
    assert lines[1] == "KitaruUserCodeError there is no such place ValueError"


def test_runtime_options_stand_at_the_decorator_and_are_overridden_by_a_run(
    run_snippets: Callable[..., list[str]],
) -> None:
    lines = run_snippets(
        """
        from kitaru import flow

        @flow(retries=2, cache=False)
        def my_agent(url: str) -> str:
            ...

        # Override at call time
        handle = my_agent.run(url="https://example.com", retries=3, cache=True)
        """,
        """
        handle.wait()
        plain = my_agent.run(url="https://example.com")
        plain.wait()
        executions = kitaru.KitaruClient().executions
        for each in (handle, plain):
            options = executions.get(each.exec_id).options
            print(options.retries, options.cache)
        """,
    )
    assert lines == ["3 True", "2 False"]


def test_options_that_nobody_gave_have_the_described_defaults(
    run_snippets: Callable[..., list[str]],
) -> None:
    lines = run_snippets(
        """
        handle = my_agent.run("https://example.com")
        handle.wait()
        options = kitaru.KitaruClient().executions.get(handle.exec_id).options
        print(options.retries, options.cache)
        """
    )
    # Unset and not True: the cache is on, unless a checkpoint says no.
    assert lines == ["0 None"]


def test_the_rules_to_know_hold(run_snippets: Callable[..., list[str]]) -> None:
    lines = run_snippets(
        """
        for wrong in (
            lambda: my_agent("https://example.com"),
            lambda: my_agent.run(url="https://example.com", retries=-1),
            lambda: flow(retries=-1),
        ):
            try:
                wrong()
            except kitaru.KitaruUsageError as error:
                print(error)
        """
    )
    assert len(lines) == 3
    assert ".run(" in lines[0]
    assert "-1" in lines[1]
    assert "-1" in lines[2]


@pytest.fixture
def run_snippets_elsewhere(run_program: RunProgram, tmp_path: Path) -> Callable[..., list[str]]:
    """The same for snippets that import the flow from a file of its own, as what is deployed is."""
    flows = textwrap.dedent(DEFINITIONS) + textwrap.dedent(DEFINING)
    (tmp_path / "flows.py").write_text(flows, encoding="utf-8")

    def run(*snippets: str) -> list[str]:
        done = run_program(
            "\n".join(map(textwrap.dedent, ["from flows import *", "import kitaru", *snippets])),
            timeout=90,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


def test_a_flow_is_deployed_and_invoked_by_default_version_and_tag(
    run_snippets_elsewhere: Callable[..., list[str]],
) -> None:
    lines = run_snippets_elsewhere(
        """
        # Producer side: create a reusable deployment version.
        my_agent.deploy(url="https://example.com")

        # Consumer side: start a new execution from the deployed default route.
        handle = my_agent.invoke(url="https://example.com")
        """,
        """
        print(handle.wait(), handle.status)
        my_agent.deploy(url="two", tags={"stable": True})
        for chosen in ({}, {"version": 2}, {"tag": "stable"}):
            handle = my_agent.invoke(**chosen)
            execution = kitaru.KitaruClient().executions.get(handle.exec_id)
            print(execution.deployment.version, handle.wait())
        """,
    )
    assert lines == [
        "<HTTPS://EXAMPLE.COM> completed",
        "1 <HTTPS://EXAMPLE.COM>",
        "2 <TWO>",
        "2 <TWO>",
    ]


def test_a_flow_is_run_then_deployed_then_invoked_with_and_without_its_source(
    run_snippets_elsewhere: Callable[..., list[str]],
) -> None:
    lines = run_snippets_elsewhere(
        """
        # Ad-hoc run from the current process
        handle = my_agent.run(url="https://example.com")
        """,
        "handles = [handle]",
        """
        # Deploy an immutable snapshot (new version each call).
        # Parameterized flows take representative deployment-time inputs;
        # consumers can override them at invocation time.
        my_agent.deploy(url="https://example.com")

        # Consumers that have the flow imported can invoke by attribute
        handle = my_agent.invoke(url="https://example.com")
        """,
        "handles.append(handle)",
        """
        # Or invoke source-free by flow name (from Python, CLI, MCP, or HTTP)
        from kitaru import KitaruClient
        handle = KitaruClient().deployments.invoke(
            flow="my_agent",
            inputs={"url": "https://example.com"},
        )
        """,
        """
        handles.append(handle)
        for handle in handles:
            print(handle.wait())
        """,
    )
    assert lines == ["<HTTPS://EXAMPLE.COM>"] * 3
