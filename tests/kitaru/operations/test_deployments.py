"""A version is deployed whole or not at all; inputs are looked at before anything starts."""

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from journal import Append, open_reader
from kitaru.bootstrap import Runtime
from kitaru.domain.execution.events import ExecutionStarted, FrozenOptions
from kitaru.domain.execution.state import ABSENT
from kitaru.engine.bundles import NotBundled
from kitaru.engine.deployments import stream_of as deployment_stream
from kitaru.engine.executions import fold, head_of, new_event, stream_of
from kitaru.engine.source import load_target
from kitaru.engine.upcasts import decode_event
from kitaru.errors import (
    KitaruDeploymentInputValuesError,
    KitaruDeploymentNotFoundError,
    KitaruStateError,
    KitaruUsageError,
)
from kitaru.operations import deployed, deployments, packaging, reading
from kitaru.operations.deployments import Invocation
from kitaru.operations.inputs import merged
from kitaru.stacks.pool import RunnerPool

PROGRAM = """
from dataclasses import dataclass
from pathlib import Path
from kitaru import flow

@dataclass
class Order:
    total: int

@flow
def agent(url: str, count: int = 3, *, folder: Path | None = None, orders: list[Order] = []) -> str:
    return url * count

@flow
def plain() -> int:
    return 1

@flow
def tagged(tag: str) -> str:
    return tag
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    # A module of this name may be loaded once only: each test has its own.
    file = root / f"deployed_{abs(hash(tmp_path))}.py"
    file.write_text(PROGRAM)
    yield file
    sys.modules.pop(file.stem, None)


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runtime that starts no runner."""

    async def look(_: RunnerPool) -> None:
        """Nobody runs anything here."""

    monkeypatch.setattr(RunnerPool, "look", look)
    runtime = await Runtime.open(f"sqlite:///{tmp_path}/journal.db", 30)
    yield runtime
    await runtime.close()


def packaged(file: Path, name: str, *args: Any, **kwargs: Any) -> packaging.Package:
    flow = load_target(f"{file}:{name}")
    journal = f"sqlite:///{file.parent}/journal.db"
    return packaging.package(
        flow.definition, flow.reference, "f", FrozenOptions(retries=2), args, kwargs, journal
    )


async def deploy(runtime: Runtime, file: Path, name: str, *args: Any, **kwargs: Any) -> Any:
    made = packaged(file, name, *args, **kwargs)
    return await deployments.deploy(runtime, name, made, tags={"default": True})


def edit(file: Path, program: str) -> None:
    file.write_text(program)


async def started(runtime: Runtime, exec_id: str) -> ExecutionStarted:
    [fact] = await runtime.journal.read_stream(stream_of(exec_id))
    event = decode_event(fact)
    assert isinstance(event, ExecutionStarted)
    return event


async def test_the_same_tree_is_the_same_bundle_and_another_version(
    runtime: Any, project: Path
) -> None:
    first = await deploy(runtime, project, "agent", "u")
    (project.parent / "journal.db").write_text("what changes by itself")
    second = await deploy(runtime, project, "agent", "u")
    assert (first.version, second.version) == (1, 2)
    assert first.bundle == second.bundle
    (project.parent / "more.py").write_text("")
    assert (await deploy(runtime, project, "agent", "u")).bundle != first.bundle


async def test_a_version_tells_what_it_is(runtime: Any, project: Path) -> None:
    view = await deploy(runtime, project, "agent", "u", folder=Path("x"))
    assert view.default_inputs == ("url", "folder")
    assert view.defaults is not None
    assert msgspec.json.decode(view.defaults.json)["url"] == "u"
    assert view.schema["required"] == ["url"]
    assert view.schema["properties"]["count"] == {"type": "integer", "default": 3}
    assert (view.entry.file, view.options.retries, view.files) == (project.name, 2, 2)
    assert view == await deployments.get(runtime, "agent")
    assert [each.version for each in await deployments.listed(runtime)] == [1]
    assert await deployments.listed(runtime, "other") == []


async def test_what_cannot_be_deployed_leaves_nothing(runtime: Any, project: Path) -> None:
    with pytest.raises(KitaruDeploymentInputValuesError, match="'url'"):
        await deploy(runtime, project, "agent")
    with pytest.raises(KitaruUsageError, match="'tag' has the name"):
        await deploy(runtime, project, "tagged", "x")
    made = packaged(project, "agent", "u")
    with pytest.raises(KitaruUsageError, match="reserved"):
        await deployments.deploy(runtime, "agent", made, tags={"kitaru:x": True})
    (project.parent / "link").symlink_to("/etc/passwd")
    with pytest.raises(NotBundled, match="link"):
        await deploy(runtime, project, "agent", "u")
    assert await runtime.journal.read_all() == []


@pytest.mark.parametrize("tags", [["stable"], "stable", 5, {("a", "b")}])
async def test_tags_are_a_mapping_by_name(runtime: Any, project: Path, tags: Any) -> None:
    made = packaged(project, "plain")
    with pytest.raises(KitaruUsageError, match=r"tags=.*: a dict is needed, such as"):
        await deployments.deploy(runtime, "plain", made, tags=tags)
    assert await deployments.listed(runtime) == []


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (PROGRAM.replace("url: str", "address: str"), "no longer defines it with these parameters"),
        (PROGRAM.replace("def agent", "def renamed"), "no longer defines it with these parameters"),
        (PROGRAM + "def", "cannot be read as Python now"),
    ],
)
async def test_what_was_edited_after_it_was_loaded_is_not_deployed_with_what_it_was(
    runtime: Any, project: Path, now: str, told: str
) -> None:
    load_target(f"{project}:agent")
    edit(project, now)
    with pytest.raises(KitaruUsageError, match=told):
        await deploy(runtime, project, "agent", "u")
    assert await deployments.listed(runtime) == []
    edit(project, PROGRAM.replace("url * count", "url"))
    assert (await deploy(runtime, project, "agent", "u")).version == 1


async def test_those_who_deploy_at_once_get_versions_without_gaps(
    runtime: Any, project: Path
) -> None:
    made = packaged(project, "plain")
    views = await asyncio.gather(
        *(deployments.deploy(runtime, "plain", made, tags={"default": True}) for _ in range(8))
    )
    assert sorted(view.version for view in views) == list(range(1, 9))
    assert (await deployments.get(runtime, "plain")).version == 8


async def test_an_invocation_merges_its_inputs_into_the_versions(
    runtime: Any, project: Path
) -> None:
    await deploy(runtime, project, "agent", "u", folder=Path("x"))
    inputs = {"count": 7, "orders": [{"total": 3}]}
    await deployments.invoke(runtime, "e1", Invocation(flow="agent", inputs=inputs))
    event = await started(runtime, "e1")
    data = msgspec.json.decode(event.arguments.json)
    assert data["url"] == "u"
    assert data["folder"] != "x"  # a Path, as it was given
    assert (data["count"], data["orders"]) == (7, [{"total": 3}])
    assert (event.plain, event.options.retries) == (("count", "orders"), 2)
    assert event.deployment is not None
    assert event.deployment.version == 1
    head = await runtime.journal.head(stream_of("e1"))
    assert head is not None
    assert (head.route, head.due_at, head.owner) == (
        f"deployment:{event.deployment.bundle}",
        0,
        None,
    )


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"count": "many"}, r"inputs\.count: 'many' is not of type 'integer'"),
        ({"orders": [{"total": 1}, {"total": "x"}]}, r"inputs\.orders\[1\]\.total: 'x'"),
        (
            {"colour": 1, "count": "many"},
            r"there is no input 'colour'; there are: url, count, folder, orders; inputs\.count",
        ),
        ({"url": object()}, r"inputs\.url: .*object"),
    ],
)
async def test_inputs_that_do_not_fit_are_refused_by_field_and_nothing_starts(
    runtime: Any, project: Path, inputs: dict[str, Any], text: str
) -> None:
    await deploy(runtime, project, "agent", "u")
    with pytest.raises(KitaruUsageError, match=text):
        await deployments.invoke(runtime, "e1", Invocation(flow="agent", inputs=inputs))
    assert await runtime.journal.head(stream_of("e1")) is None


async def test_a_key_starts_one_execution(runtime: Any, project: Path) -> None:
    await deploy(runtime, project, "agent", "u")
    asked = Invocation(flow="agent", inputs={"count": 1}, idempotency_key="k")
    await deployments.invoke(runtime, "e1", asked)
    await deployments.invoke(runtime, "e1", asked)
    other = Invocation(flow="agent", inputs={"count": 2}, idempotency_key="k")
    with pytest.raises(KitaruStateError, match=r"with other arguments"):
        await deployments.invoke(runtime, "e1", other)
    assert len(await runtime.journal.read_stream(stream_of("e1"))) == 1


async def test_a_key_finds_its_execution_when_its_tag_leads_to_another_version(
    runtime: Any, project: Path
) -> None:
    await deploy(runtime, project, "agent", "u", 1)
    asked = Invocation(flow="agent", inputs={"url": "v"}, idempotency_key="k")
    await deployments.invoke(runtime, "e1", asked)
    moved = await asyncio.to_thread(project.rename, project.with_stem(f"{project.stem}_next"))
    await asyncio.to_thread(
        moved.write_text, PROGRAM.replace("url: str, ", "").replace("url * ", "'u' * ")
    )
    await deploy(runtime, moved, "agent", 2)

    await deployments.invoke(runtime, "e1", asked)
    assert len(await runtime.journal.read_stream(stream_of("e1"))) == 1
    one = Invocation(flow="agent", inputs={"url": "v"}, version=1, idempotency_key="k")
    await deployments.invoke(runtime, "e1", one)
    for inputs, version, told in (
        ({"url": "w"}, None, r"other arguments:\n  arguments.url: 'v' was recorded, now 'w'"),
        ({"count": 2}, None, r"arguments.count: 1 was recorded, now 2"),
        ({"lang": "de"}, None, r"with other inputs. Version 1 of 'agent'.*'lang'"),
        ({"url": "v"}, 2, r"which was started on version 1"),
    ):
        other = Invocation(flow="agent", inputs=inputs, version=version, idempotency_key="k")
        with pytest.raises(KitaruStateError, match=told):
            await deployments.invoke(runtime, "e1", other)


async def test_a_key_that_run_has_used_finds_what_was_run(runtime: Any, project: Path) -> None:
    await deploy(runtime, project, "agent", "u")
    asked = Invocation(flow="agent", inputs={}, idempotency_key="k")
    await deployments.invoke(runtime, "e1", asked)
    recorded = await runtime.journal.read_stream(stream_of("e1"))
    first = decode_event(recorded[0])
    assert isinstance(first, ExecutionStarted)
    run = replace(first, deployment=None)
    start = Append(
        stream=stream_of("e2"),
        events=(new_event(run),),
        expected_version=0,
        head=head_of(fold(ABSENT, [run])),
    )
    await runtime.journal.append(start)
    await deployments.invoke(runtime, "e2", asked)
    other = Invocation(flow="agent", inputs={"count": 2}, idempotency_key="k")
    with pytest.raises(KitaruStateError, match="with other arguments"):
        await deployments.invoke(runtime, "e2", other)


async def test_what_is_not_there_is_told(runtime: Any, project: Path) -> None:
    for ask in (
        deployments.get(runtime, "agent"),
        deployments.flow(runtime, "agent"),
        deployments.delete(runtime, "agent", 1),
        deployments.invoke(runtime, "e1", Invocation(flow="agent", inputs={})),
    ):
        with pytest.raises(KitaruDeploymentNotFoundError, match="No deployments found"):
            await ask
    with pytest.raises(KitaruUsageError, match="no flow's name"):
        await deployments.get(runtime, "a-b")
    assert await runtime.journal.head(deployment_stream("agent")) is None


async def test_tags_are_moved_and_versions_deleted(runtime: Any, project: Path) -> None:
    await deploy(runtime, project, "plain")
    await deploy(runtime, project, "plain")
    moved = await deployments.move_tag(runtime, "plain", 1, "stable", exclusive=True)
    assert moved.tags == {"stable": True}
    assert (await deployments.remove_tag(runtime, "plain", 1, "stable")).tags == {}
    await deployments.delete(runtime, "plain", 1)
    known = await deployments.flow(runtime, "plain")
    assert (known.latest, known.versions, known.tags) == (2, (2,), {"default": (2,)})
    assert await deployments.flows(runtime) == [known]


async def test_recorded_arguments_keep_what_is_not_given_anew(runtime: Any, project: Path) -> None:
    await deploy(runtime, project, "agent", "u")
    facts = await deployments.facts_of(runtime, "agent", 1)
    first = await merged(runtime, "agent", facts, None, (), {"url": "a", "folder": Path("b")})
    again = await merged(runtime, "agent", facts, first.value, first.plain, {"count": 2})
    assert list(msgspec.json.decode(again.value.json)) == ["url", "folder", "count"]
    assert (first.plain, again.plain) == (("url",), ("url", "count"))
    taken = await merged(runtime, "agent", facts, first.value, first.plain, {"folder": "c"})
    assert taken.plain == ("url", "folder")


async def test_what_readers_see_is_what_was_deployed(
    runtime: Any, project: Path, tmp_path: Path
) -> None:
    """What `kitaru.operations.deployed` reads without an event loop."""
    await deploy(runtime, project, "agent", "u")
    await deploy(runtime, project, "plain")
    await deployments.invoke(runtime, "e1", Invocation(flow="plain", inputs={}))
    with open_reader(str(tmp_path / "journal.db")) as reader:
        assert deployed.flows(reader) == await deployments.flows(runtime)
        plain = deployed.version(reader, "plain", None, None)
        assert deployed.flow(reader, "plain").versions == [plain]
        assert plain == await deployments.get(runtime, "plain")
        assert deployed.executions_of(reader, plain) == ["e1"]
        # The same bundle, and another flow of it.
        assert deployed.executions_of(reader, deployed.version(reader, "agent", 1, None)) == []
        with pytest.raises(KitaruDeploymentNotFoundError, match="kitaru flow list"):
            deployed.flow(reader, "other")


async def test_the_journals_check_covers_deployments(
    runtime: Any, project: Path, tmp_path: Path
) -> None:
    await deploy(runtime, project, "plain")
    with open_reader(str(tmp_path / "journal.db")) as reader:
        sound = reading.verify(reader)
    assert (sound.is_sound, sound.flows, sound.events) == (True, 1, 2)
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("UPDATE heads SET summary = '{\"latest\":9}' WHERE category = 'deployment'")
    connection.commit()
    with open_reader(str(tmp_path / "journal.db")) as reader:
        [problem] = reading.verify(reader).problems
    assert (problem.kind, problem.stream) == ("head", "deployment-plain")
    assert "summary" in problem.what
    connection.execute("DELETE FROM blobs")
    connection.commit()
    connection.close()
    with open_reader(str(tmp_path / "journal.db")) as reader:
        bundle, _ = reading.verify(reader).problems
    assert (bundle.kind, bundle.stream, bundle.version) == ("missing", "deployment-plain", 1)
