"""Stacks in a journal: they come and go, one is chosen, and never is another taken in its place."""

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import open_reader
from kitaru import KitaruStateError, KitaruUsageError, checkpoint, flow
from kitaru.bootstrap import current_runtime
from kitaru.choice import choice_file, choose_stack, chosen_stack
from kitaru.engine.stacks import stream_of_stack
from kitaru.errors import KitaruError
from kitaru.operations import reading

pytestmark = pytest.mark.usefixtures("own_journal", "choice_folder")


@pytest.fixture
def own_journal(journal_url: str) -> Any:
    from kitaru.bootstrap import close_background

    kitaru.configure(journal=journal_url)
    yield journal_url
    close_background()
    kitaru.configure(journal=None, stack=None, image=None)


@checkpoint
def where() -> str:
    return threading.current_thread().name


@flow
def here() -> str:
    return where()


@flow(stack="decorated")
def decorated() -> str:
    return where()


@flow
async def here_async() -> str:
    return await where.aio()


# `run` takes its options beside the flow's own arguments, which no type checker follows.
HERE: Any = here
HERE_ASYNC: Any = here_async
DECORATED: Any = decorated


def names() -> list[str]:
    return [stack.name for stack in kitaru.list_stacks()]


def stack_of(handle: Any) -> str:
    return kitaru.KitaruClient().executions.get(handle.exec_id).stack_name


def test_the_local_stack_is_always_there() -> None:
    (local,) = kitaru.list_stacks()
    assert (local.id, local.name, local.type, local.is_active) == ("local",) * 3 + (True,)
    assert kitaru.current_stack() == local
    assert kitaru.use_stack("local") == local
    with pytest.raises(KitaruStateError, match="built in"):
        kitaru.create_stack("local")
    with pytest.raises(KitaruStateError, match="built in"):
        kitaru.delete_stack("local", force=True)


def test_a_stack_is_created_and_active_unless_told_otherwise() -> None:
    made = kitaru.create_stack("dev", labels={"team": "red"})
    assert (made.name, made.type, made.is_active, made.labels) == (
        "dev",
        "local",
        True,
        {"team": "red"},
    )
    assert kitaru.current_stack() == made
    iso = kitaru.create_stack("iso", type="process", activate=False)
    assert (iso.type, iso.is_active, iso.created_at is not None) == ("process", False, True)
    assert names() == ["local", "dev", "iso"]
    assert kitaru.current_stack().name == "dev"


def test_a_stack_is_chosen_by_name_or_id() -> None:
    made = kitaru.create_stack("dev", activate=False)
    assert kitaru.use_stack(made.id).name == "dev"
    assert kitaru.current_stack().is_active
    kitaru.use_stack("local")
    assert kitaru.use_stack("dev").id == made.id


@pytest.mark.parametrize(
    "ask",
    [
        lambda: kitaru.use_stack("nope"),
        lambda: kitaru.delete_stack("nope"),
        lambda: kitaru.KitaruClient().stacks.get("nope"),
        lambda: HERE.run(stack="nope"),
        lambda: HERE.run(stack="no such name"),
        lambda: here.with_options(stack="nope").run(),
        lambda: HERE_ASYNC.sync.run(stack="nope"),
        lambda: decorated.run(),
    ],
)
def test_an_unknown_stack_is_an_error_that_lists_what_exists(ask: Any) -> None:
    kitaru.create_stack("dev", activate=False)
    with pytest.raises(KitaruUsageError, match=r"There is no stack .*; there are: local, dev"):
        ask()
    assert kitaru.KitaruClient().executions.list() == []


async def test_an_async_run_on_an_unknown_stack_says_so_when_it_is_awaited() -> None:
    with pytest.raises(KitaruUsageError, match="There is no stack 'nope'"):
        await HERE_ASYNC.run(stack="nope")
    assert await kitaru.AsyncKitaruClient().executions.list() == []


def test_the_active_stack_cannot_be_deleted_by_mistake() -> None:
    kitaru.create_stack("dev")
    with pytest.raises(KitaruStateError, match="'dev' is the active one"):
        kitaru.delete_stack("dev")
    assert kitaru.delete_stack("dev", force=True).name == "dev"
    assert chosen_stack() is None
    assert kitaru.current_stack().name == "local"
    assert stack_of(here.run()) == "local"


def test_a_stale_choice_is_never_silently_another_stack() -> None:
    choose_stack("gone")
    kitaru.create_stack("dev", activate=False)
    for ask in (here.run, kitaru.current_stack):
        with pytest.raises(KitaruUsageError, match="active stack 'gone'") as caught:
            ask()
        assert "there are: local, dev" in str(caught.value)
        assert "kitaru stack use NAME" in str(caught.value)
    assert [stack.is_active for stack in kitaru.list_stacks()] == [False, False]
    assert kitaru.KitaruClient().executions.list() == []
    kitaru.use_stack("dev")
    assert stack_of(here.run()) == "dev"


@pytest.mark.parametrize("content", ["", "{", '{"stack": 5}'])
def test_a_broken_choice_runs_nothing_and_is_mended_by_another_one(content: str) -> None:
    kitaru.create_stack("dev")
    choice_file().write_text(content, encoding="utf-8")
    kitaru.create_stack("other", activate=False)
    for ask in (here.run, kitaru.current_stack):
        with pytest.raises(KitaruUsageError, match=r"active-stack\.json does not name a stack"):
            ask()
    assert kitaru.KitaruClient().executions.list() == []
    assert stack_of(HERE.run(stack="dev")) == "dev"
    kitaru.delete_stack("other")
    assert kitaru.use_stack("dev").is_active
    assert stack_of(here.run()) == "dev"


def test_a_name_can_be_used_again_and_is_another_stack_then() -> None:
    first = kitaru.create_stack("dev", activate=False, labels={"a": "b"})
    kitaru.delete_stack("dev")
    assert names() == ["local"]
    with pytest.raises(KitaruUsageError, match="no stack"):
        kitaru.delete_stack(first.id)
    second = kitaru.create_stack("dev", type="process", activate=False)
    assert (second.id != first.id, second.type, second.labels) == (True, "process", {})


@pytest.mark.parametrize("labels", [["a"], {"a": 1}, {1: "a"}, "a", {"a": "\ud800"}])
def test_bad_labels_are_refused(labels: Any) -> None:
    with pytest.raises(KitaruUsageError, match="labels="):
        kitaru.create_stack("dev", labels=labels)
    assert names() == ["local"]


def test_precedence_of_the_stack_layer_by_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("run", "decorated", "configured", "environment", "pyproject", "active"):
        kitaru.create_stack(name, activate=False)
    monkeypatch.chdir(tmp_path)

    def placed(run: Any) -> str:
        handle = run()
        handle.wait()
        return stack_of(handle)

    assert placed(here.run) == "local"
    kitaru.use_stack("active")
    assert placed(here.run) == "active"
    (tmp_path / "pyproject.toml").write_text("[tool.kitaru]\nstack = 'pyproject'\n")
    kitaru.use_stack("active")
    assert placed(here.run) == "pyproject"
    monkeypatch.setenv("KITARU_STACK", "environment")
    assert placed(here.run) == "environment"
    kitaru.configure(stack="configured")
    assert placed(here.run) == "configured"
    assert placed(decorated.run) == "decorated"
    assert placed(lambda: DECORATED.run(stack="run")) == "run"
    assert placed(lambda: decorated.with_options(stack="run").run()) == "run"
    # Nothing of it has stayed.
    assert placed(decorated.run) == "decorated"
    assert placed(here.run) == "configured"
    kitaru.configure(stack=None)
    monkeypatch.delenv("KITARU_STACK")
    assert placed(here.run) == "pyproject"


def test_a_runs_stack_binds_that_run_only_whatever_other_threads_do() -> None:
    stacks = [f"stack-{number}" for number in range(4)]
    for name in stacks:
        kitaru.create_stack(name, activate=False)
    kitaru.use_stack("stack-0")
    found: list[tuple[str, str]] = []
    start = threading.Barrier(8)

    def run(name: str | None) -> None:
        start.wait()
        for _ in range(10):
            handle = HERE.run(stack=name) if name else here.run()
            found.append((name or "stack-0", stack_of(handle)))

    threads = [threading.Thread(target=run, args=(name,)) for name in [*stacks, None] for _ in "ab"]
    threads = threads[:8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(wanted == got for wanted, got in found)
    assert kitaru.current_stack().name == "stack-0"


def test_racing_creators_make_one_stack() -> None:
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def create() -> None:
        start.wait()
        try:
            kitaru.create_stack("dev", activate=False)
        except KitaruStateError:
            outcomes.append("refused")
        else:
            outcomes.append("made")

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["made"] + ["refused"] * 5
    runtime = current_runtime()
    recorded = asyncio.run_coroutine_threadsafe(
        runtime.journal.read_stream(stream_of_stack("dev")), runtime.loop
    ).result()
    assert len(recorded) == 1


async def test_the_async_client_has_the_same_stacks() -> None:
    stacks = kitaru.AsyncKitaruClient().stacks
    made = await stacks.create("dev", type="process")
    assert [stack.name for stack in await stacks.list()] == ["local", "dev"]
    assert await stacks.current() == made == await stacks.get("dev")
    assert (await stacks.use("local")).is_active
    assert (await stacks.delete("dev")).id == made.id
    with pytest.raises(KitaruUsageError, match=r"AsyncKitaruClient\(\)\.stacks"):
        kitaru.list_stacks()


def test_the_blocking_client_has_the_same_stacks() -> None:
    stacks = kitaru.KitaruClient().stacks
    made = stacks.create("dev", type="process")
    assert [stack.name for stack in stacks.list()] == ["local", "dev"]
    assert stacks.current() == made == stacks.get(made.id)
    assert stacks.use("local").is_active
    assert stacks.delete("dev").id == made.id


def test_an_image_is_refused_before_the_run_where_the_stack_cannot_honour_it() -> None:
    kitaru.create_stack("dev", activate=False)
    for ask in (
        lambda: HERE.run(image="python:3.12"),
        lambda: HERE.run(stack="dev", image={"requirements": ["httpx"]}),
        lambda: here.with_options(image={"environment": {"A": "b"}}).run(),
    ):
        with pytest.raises(KitaruUsageError, match=r"image\.\w+: the stack '(local|dev)'"):
            ask()
    kitaru.configure(image={"apt_packages": ["git"]})
    with pytest.raises(KitaruUsageError, match=r"image\.apt_packages: the stack 'local'"):
        here.run()
    assert kitaru.KitaruClient().executions.list() == []


@pytest.mark.parametrize(
    "options", [{"stack": ""}, {"stack": 3}, {"image": 3}, {"image": {"x": 1}}]
)
def test_bad_options_are_refused_at_the_decorator_and_at_the_run(options: Any) -> None:
    for ask in (lambda: flow(**options), lambda: HERE.run(**options)):
        with pytest.raises(KitaruUsageError):
            ask()


def test_a_fork_goes_where_its_flow_goes_and_others_forks_where_their_source_was() -> None:
    kitaru.create_stack("dev", activate=False)
    kitaru.create_stack("other", activate=False)
    source = HERE.run(stack="dev")
    source.wait()
    fork = here.replay(source.exec_id, from_="where", stack="other")
    fork.wait()
    assert stack_of(fork) == "other"
    for_others = kitaru.KitaruClient().executions.replay(source.exec_id, from_="where")
    assert for_others.stack_name == "dev"
    with pytest.raises(KitaruError, match="There is no stack 'nope'"):
        here.replay(source.exec_id, from_="where", stack="nope")


def test_the_journals_check_covers_stacks(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    kitaru.configure(journal=str(file))
    for name in ("far", "gone"):
        kitaru.create_stack(name, activate=False)
    kitaru.delete_stack("gone")
    with open_reader(str(file)) as reader:
        sound = reading.verify(reader)
    assert (sound.is_sound, sound.stacks, sound.events) == (True, 2, 3)
    connection = sqlite3.connect(file)
    connection.execute("UPDATE heads SET state = 'exists' WHERE name = 'gone'")
    connection.commit()
    connection.close()
    with open_reader(str(file)) as reader:
        [problem] = reading.verify(reader).problems
    assert (problem.kind, problem.stream) == ("head", "stack-gone")
