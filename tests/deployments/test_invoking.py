"""A version is deployed by one process and invoked by another that has nothing of its source."""

from typing import Any

import pytest

PRODUCER = {
    "helper.py": """
        def shout(text):
            return text.upper()
        """,
    "producer.py": """
        import os
        from dataclasses import dataclass
        from kitaru import checkpoint, flow
        from helper import shout

        @dataclass
        class Page:
            text: str
            pid: int

        @checkpoint
        def fetch_data(url: str) -> str:
            return f"<{url}>"

        @checkpoint
        def process_data(data: str) -> Page:
            return Page(shout(data), os.getpid())

        @flow
        def my_agent(url: str) -> Page:
            return process_data(fetch_data(url))

        if __name__ == "__main__":
            deployment = my_agent.deploy(url="https://example.com")
            print(deployment.flow, deployment.version, deployment.tags)
            page = my_agent.invoke(url="here").wait(60)
            print(type(page).__name__, page.text, page.pid != os.getpid())
        """,
}
CONSUMER = """
    from kitaru import KitaruClient
    handle = KitaruClient().deployments.invoke(
        flow="my_agent",
        inputs={"url": "https://example.com/x"},
    )
    result = handle.wait(60)
    print(handle.status, result.fields["text"])
    print(KitaruClient().deployments.invoke(flow="my_agent").wait(60).fields["text"])
    """


def test_a_consumer_without_the_source_invokes_what_a_producer_has_deployed(machine: Any) -> None:
    producer = machine.project("producer", PRODUCER)
    lines = machine.run(producer, "producer.py").splitlines()
    assert lines == ["my_agent 1 {'default': True}", "Page <HERE> True"]
    for file in producer.iterdir():
        if file.is_file():
            file.unlink()
    lines = machine.program(machine.project("consumer", {}), CONSUMER).splitlines()
    assert lines == ["completed <HTTPS://EXAMPLE.COM/X>", "<HTTPS://EXAMPLE.COM>"]


def test_an_invoker_that_is_gone_leaves_an_execution_that_is_finished_all_the_same(
    machine: Any,
) -> None:
    machine.run(machine.project("producer", PRODUCER), "producer.py")
    machine.kill_runners()
    exec_id = machine.program(
        machine.project("consumer", {}),
        """
        import time
        from kitaru import KitaruClient
        from kitaru.bootstrap import current_runtime
        handle = KitaruClient().deployments.invoke(flow="my_agent")
        while not current_runtime().pool.runners:
            time.sleep(0.01)
        print(handle.exec_id)
        """,
    ).strip()
    machine.until(lambda: machine.execution(exec_id).status.is_finished)
    assert machine.execution(exec_id).status == "completed"


def test_a_journal_in_memory_takes_deployments_and_no_invocations(machine: Any) -> None:
    producer = machine.project("producer", PRODUCER)
    machine.environment["KITARU_JOURNAL"] = "memory://"
    told = machine.program(
        producer,
        """
        from producer import my_agent
        print(my_agent.deploy(url="x").version)
        try:
            my_agent.invoke()
        except ValueError as error:
            print(type(error).__name__, error)
        """,
    )
    assert told.startswith("1\nKitaruUsageError ")
    assert "memory://" in told
    assert "name a file" in told


@pytest.mark.parametrize("colour", ["def", "async def"])
def test_a_flow_of_either_colour_is_deployed_and_invoked(machine: Any, colour: str) -> None:
    call = "await double.aio(n)" if colour == "async def" else "double(n)"
    producer = machine.project(
        "producer",
        {
            "flows.py": f"""
            from kitaru import checkpoint, flow

            @checkpoint
            def double(n: int) -> int:
                return 2 * n

            @flow
            {colour} twice(n: int) -> int:
                return {call}
            """
        },
    )
    told = machine.program(
        producer,
        """
        import asyncio
        from flows import twice
        print(twice.sync.deploy(n=4).version)
        print(twice.sync.invoke().wait(60))

        async def main():
            print((await twice.aio.deploy(5)).version)
            handle = twice.aio.invoke(version=2, n=6)
            print(await handle.wait(60), (await twice.aio.deployment(tag="default")).version)

        asyncio.run(main())
        """,
    )
    assert told.split() == ["1", "8", "2", "12", "2"]


def test_modules_are_found_in_the_bundle_as_the_deployer_found_them(machine: Any) -> None:
    project = machine.project(
        "project",
        {
            "pyproject.toml": "",
            "src/pkg/__init__.py": "",
            "src/pkg/words.py": "GREETING = 'hello'",
            "src/pkg/flows.py": """
                from kitaru import checkpoint, flow
                import shared
                from .words import GREETING

                @checkpoint
                def greet(name: str) -> str:
                    from pkg import later
                    return f"{GREETING} {name}{shared.MARK}{later.MARK}"

                @flow
                def agent(name: str = "you") -> str:
                    return greet(name)
                """,
            "src/pkg/later.py": "MARK = '?'",
            "lib/shared.py": "MARK = '!'",
            "secret/.env": "TOKEN=1",
        },
    )
    told = machine.program(
        project,
        """
        import sys
        sys.path[:0] = ["src", "lib"]
        from pkg.flows import agent
        entry = agent.deploy().details.entry
        print(entry.module, entry.file, entry.root, entry.import_roots)
        """,
    )
    assert told.split(maxsplit=3)[:3] == ["pkg.flows", "src/pkg/flows.py", "src"]
    for file in ("src/pkg/words.py", "src/pkg/later.py", "lib/shared.py"):
        (project / file).unlink()
    told = machine.kitaru(machine.project("empty", {}), "invoke", "agent")
    assert told.split("\n")[-2] == "hello you!?"
    assert not list((machine.folder / "cache").rglob(".env"))
