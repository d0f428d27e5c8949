"""Bad input and trouble, in one place: each is a typed error that names what is wrong and where.

The same from sync code, from async code and from the command line; and the engine works afterwards.
"""

import asyncio
import contextlib
import functools
import math
import socket
import sqlite3
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import kitaru
from kitaru import (
    AsyncKitaruClient,
    KitaruBackendError,
    KitaruClient,
    KitaruContextError,
    KitaruError,
    KitaruSerializationError,
    KitaruStateError,
    KitaruUsageError,
    checkpoint,
    flow,
)
from kitaru.bootstrap import close_background
from kitaru.surfaces.cli.main import cli

LONG = "x" * 1_000_000


@checkpoint(cache=False)
def fetch(url: Any) -> Any:
    return f"<{url}>"


@checkpoint(cache=False)
async def fetch_async(url: Any) -> Any:
    return f"<{url}>"


@flow
def _report(url: Any = "a") -> Any:
    return fetch(url)


@flow
async def _report_async(url: Any = "a") -> Any:
    return await fetch_async(url)


# As code that no type checker looks at has them.
report: Any = _report
report_async: Any = _report_async


@pytest.fixture(autouse=True)
def _own_journal(journal_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kitaru.configure(journal=None)
    monkeypatch.setenv("KITARU_JOURNAL", journal_url)
    yield
    close_background()


@pytest.fixture(autouse=True)
def _engine_works_afterwards(_own_journal: None, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "broken" not in request.fixturenames:
        assert report.run("after").wait(timeout=30) == "<after>"
        assert asyncio.run(_wait(report_async.run("after"))) == "<after>"


async def _wait(handle: Any) -> Any:
    return await handle.wait(timeout=30)


def refused(call: Callable[[], Any]) -> KitaruError:
    """The error with which a call is refused, also where it has to be awaited."""
    with pytest.raises(KitaruError) as caught:
        _done(call)
    message = str(caught.value)
    assert message
    assert len(message) < 2_000, "the message repeats the whole of what is wrong"
    assert message.isprintable() or "\n" in message
    return caught.value


def _done(call: Callable[[], Any]) -> None:
    given = call()
    if isinstance(given, Awaitable):
        asyncio.run(_await(given))


async def _await(given: Any) -> Any:
    return await given


def command(*arguments: str) -> Result:
    """The command line, which fails without a traceback: exit code, and words on stderr."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code in (1, 2), result.output
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 2_500
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


# options


@pytest.mark.parametrize("retries", [-1, True, False, 1.0, 0.5, "1", math.nan, [1], b"1"])
@pytest.mark.parametrize(
    "say",
    [
        lambda value: flow(retries=value),
        lambda value: flow(retries=value)(report.definition.function),
        lambda value: report.with_options(retries=value),
        lambda value: report.run("a", retries=value),
        lambda value: report.aio.run("a", retries=value),
        lambda value: report_async.run("a", retries=value),
        lambda value: report_async.with_options(retries=value),
        lambda value: checkpoint(retries=value),
        lambda value: kitaru.Retry(max_attempts=value),
        lambda value: kitaru.configure(retries=value),
        lambda value: KitaruClient().executions.replay("x", from_="fetch", retries=value),
        lambda value: AsyncKitaruClient().executions.replay("x", from_="fetch", retries=value),
    ],
)
def test_retries_are_a_number_from_nought_on(say: Callable[[Any], Any], retries: Any) -> None:
    error = refused(lambda: say(retries))
    assert isinstance(error, KitaruUsageError)
    assert repr(retries) in str(error)


@pytest.mark.parametrize("cache", [0, 1, "yes", "true", [True]])
@pytest.mark.parametrize(
    "say",
    [
        lambda value: flow(cache=value),
        lambda value: report.run("a", cache=value),
        lambda value: report_async.run("a", cache=value),
        lambda value: checkpoint(cache=value),
        lambda value: kitaru.configure(cache=value),
    ],
)
def test_cache_is_a_bool(say: Callable[[Any], Any], cache: Any) -> None:
    error = refused(lambda: say(cache))
    assert isinstance(error, KitaruUsageError)
    assert repr(cache) in str(error)


@pytest.mark.parametrize(
    "key", ["", "  ", "a\x00b", "a\nb", "\x7f", "\u202e", "\ud800", LONG, 7, b"key", True]
)
@pytest.mark.parametrize(
    "say",
    [
        lambda value: report.run("a", idempotency_key=value),
        lambda value: report.aio.run("a", idempotency_key=value),
        lambda value: report_async.run("a", idempotency_key=value),
        lambda value: report_async.sync.run("a", idempotency_key=value),
        lambda value: report.with_options(idempotency_key=value).run("a"),
        lambda value: report.replay("x", from_="fetch", idempotency_key=value),
        lambda value: KitaruClient().executions.replay("x", from_="a", idempotency_key=value),
    ],
)
def test_an_idempotency_key_is_a_printable_text(say: Callable[[Any], Any], key: Any) -> None:
    assert isinstance(refused(lambda: say(key)), KitaruUsageError)


@pytest.mark.parametrize("seconds", [math.nan, -1, -math.inf, True, False, "1", "soon", [1], b"1"])
@pytest.mark.parametrize(
    "say",
    [
        lambda value: report.run("a").wait(timeout=value),
        lambda value: _wait_for(report.aio.run("a"), value),
        lambda value: _wait_for(report_async.run("a"), value),
        lambda value: report_async.sync.run("a").wait(timeout=value),
    ],
)
def test_a_timeout_is_a_number_of_seconds(say: Callable[[Any], Any], seconds: Any) -> None:
    error = refused(lambda: say(seconds))
    assert isinstance(error, KitaruUsageError)
    assert repr(seconds) in str(error)


async def _wait_for(handle: Any, seconds: Any) -> Any:
    return await handle.wait(timeout=seconds)


def test_an_infinite_timeout_is_none() -> None:
    assert report.run("a").wait(timeout=math.inf) == "<a>"
    assert asyncio.run(_wait_for(report_async.run("a"), math.inf)) == "<a>"


@pytest.mark.parametrize("seconds", [math.nan, -1, 0, math.inf, True, "1", [1]])
def test_a_lease_is_a_number_of_seconds(seconds: Any) -> None:
    assert isinstance(refused(lambda: kitaru.configure(lease_seconds=seconds)), KitaruUsageError)


# calls in the wrong place, or in the wrong way


@pytest.mark.parametrize("body", [report, report_async])
def test_a_flow_is_not_called_directly(body: Any) -> None:
    for call in (lambda: body("a"), lambda: body.aio("a"), lambda: body.sync("a")):
        error = refused(call)
        assert isinstance(error, KitaruUsageError)
        assert f"{body.name}.run(" in str(error)


def test_what_belongs_into_a_flow_is_refused_outside() -> None:
    for call in (
        lambda: fetch("a"),
        lambda: fetch.aio("a"),
        lambda: fetch.submit("a"),
        lambda: fetch.map(["a"]),
        lambda: fetch.product(["a"]),
        lambda: fetch_async("a"),
        lambda: fetch_async.sync("a"),
        lambda: fetch_async.submit("a"),
        lambda: fetch_async.map(["a"]),
        lambda: kitaru.wait(),
        lambda: kitaru.wait.sync(),
        lambda: kitaru.wait.aio(),
        lambda: kitaru.sleep(1),
        lambda: kitaru.now(),
        lambda: kitaru.random(),
        lambda: kitaru.uuid4(),
        lambda: kitaru.log(a=1),
        lambda: kitaru.save("name", 1),
        lambda: kitaru.idempotency_key(),
        lambda: kitaru.transaction(),
    ):
        assert isinstance(refused(call), KitaruContextError)


@checkpoint(cache=False)
def nested(what: str) -> Any:
    match what:
        case "checkpoint":
            return fetch("a")
        case "submit":
            return fetch.submit("a")
        case "wait":
            return kitaru.wait()
        case "sleep":
            return kitaru.sleep(1)
        case "flow":
            return report("a")
        case _:
            return kitaru.now()


@checkpoint(cache=False)
async def nested_async(what: str) -> Any:
    return await fetch_async("a") if what == "checkpoint" else nested.definition.function(what)


@flow
def nesting(what: str) -> Any:
    return nested(what)


@flow
async def nesting_async(what: str) -> Any:
    return await nested_async(what)


@pytest.mark.parametrize("what", ["checkpoint", "submit", "wait", "sleep", "flow", "now"])
@pytest.mark.parametrize("body", [nesting, nesting_async.sync])
def test_a_checkpoint_inside_another_is_refused_and_not_retried(body: Any, what: str) -> None:
    error = refused(lambda: body.run(what).wait(timeout=30))
    kind = KitaruUsageError if what == "flow" else KitaruContextError
    assert isinstance(error.__cause__, kind)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda flow: flow.run(), "report"),
        (lambda flow: flow.run("a", "b"), "report"),
        (lambda flow: flow.run(link="a"), "link"),
        (lambda flow: flow.run("a", url="b"), "url"),
    ],
)
@pytest.mark.parametrize("body", [report, report_async])
def test_arguments_that_do_not_fit_are_named(body: Any, call: Any, names: str) -> None:
    if names == "report":
        # The default makes a run without arguments a good one.
        @flow
        def report_of(url: str) -> str:
            return url

        body = report_of if body is report else report_of.aio
    error = refused(lambda: call(body))
    assert isinstance(error, KitaruUsageError)
    assert names in str(error)


@pytest.mark.parametrize("what", [None, 1, "text", print, len, object(), KitaruClient])
@pytest.mark.parametrize("decorator", [flow, checkpoint, flow(), checkpoint()])
def test_only_functions_are_decorated(decorator: Any, what: Any) -> None:
    if what is None and decorator in (flow, checkpoint):
        return
    assert isinstance(refused(lambda: decorator(what)), KitaruUsageError)


def test_a_generator_and_reserved_parameters_are_refused() -> None:
    def generator(url: str) -> Iterator[str]:
        yield url

    def stack(stack: str) -> str:
        return stack

    def after(after: str) -> str:
        return after

    for call in (
        lambda: flow(generator),
        lambda: checkpoint(generator),
        lambda: flow(stack),
        lambda: checkpoint(after),
    ):
        assert isinstance(refused(call), KitaruUsageError)


# values


class Client:
    """What cannot be kept."""


@flow
def returns(what: str) -> Any:
    match what:
        case "checkpoint":
            return fetch({"items": [1, {"client": Client()}]})
        case "result":
            return {"items": [1, {"client": Client()}]}
        case "log":
            kitaru.log(client=Client())
        case _:
            return made({"items": [1, {"client": Client()}]} if what == "argument" else None)
    return None


@checkpoint(cache=False, retries=3)
def made(given: Any) -> Any:
    tried.append(1)
    return [{"client": Client()}]


tried: list[int] = []


@pytest.mark.parametrize("body", [report, report.aio, report_async, report_async.sync])
def test_an_argument_of_a_flow_that_cannot_be_kept_is_refused_at_its_start(body: Any) -> None:
    for given, path in (
        ({"items": [1, {"client": Client()}]}, "arguments.url.items[1].client"),
        (socket.socket, "arguments.url"),
        (lambda: None, "arguments.url"),
        ([Client()], "arguments.url[0]"),
    ):
        error = refused(functools.partial(body.run, given))
        assert isinstance(error, KitaruSerializationError)
        assert error.path == path
        assert path in str(error)
    assert KitaruClient().executions.list() == []


def test_a_default_that_cannot_be_kept_is_the_codes_own_and_never_recorded() -> None:
    @flow
    def with_default(client: Any = Client) -> str:
        return str(client.__name__)

    assert with_default.run().wait(timeout=30) == "Client"
    assert isinstance(refused(lambda: with_default.run(Client)), KitaruSerializationError)


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("checkpoint", "arguments.url.items[1].client"),
        ("argument", "arguments.given.items[1].client"),
        ("checkpoint result", "result[0].client"),
        ("result", "result.items[1].client"),
        ("log", "log.client"),
    ],
)
def test_a_value_that_cannot_be_kept_names_its_place_and_is_not_retried(
    what: str, path: str
) -> None:
    tried.clear()
    error = refused(lambda: returns.run(what, retries=2).wait(timeout=30))
    assert isinstance(error, kitaru.KitaruExecutionError)
    cause = error.__cause__
    assert isinstance(cause, KitaruSerializationError)
    assert cause.path == path
    assert path in str(error)
    assert len(tried) == (what == "checkpoint result")


# ids

IDS = {
    "unknown": "no-such-execution",
    "unknown and long": "00000000-0000-0000-0000-000000000000",
    "empty": "",
    "blank": "   ",
    "zero": "a\x00b",
    "control": "a\nb",
    "endless": LONG,
    "path": "../x",
    "pattern": "%",
    "other pattern": "*",
    "not normalised": unicodedata.normalize("NFD", "é"),
    "surrogate": "\ud800",
    "quote": "' OR 1=1 --",
}


@pytest.mark.parametrize("exec_id", [*IDS.values(), 7, None, b"x"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda it, value: it.get(value),
        lambda it, value: it.handle(value),
        lambda it, value: it.cancel(value),
        lambda it, value: it.force_cancel(value),
        lambda it, value: it.retry(value),
        lambda it, value: it.resume(value),
        lambda it, value: it.pending_waits(value),
        lambda it, value: it.input(value, wait="w", value=1),
        lambda it, value: it.abort_wait(value, wait="w"),
        lambda it, value: it.replay(value, from_="fetch"),
        lambda it, value: it.resolve(value, "fetch", run_again=True),
    ],
)
@pytest.mark.parametrize("client", [KitaruClient, AsyncKitaruClient])
def test_an_execution_that_there_is_not(client: Any, ask: Any, exec_id: Any) -> None:
    report.run("a").wait()
    error = refused(lambda: ask(client().executions, exec_id))
    good = isinstance(exec_id, str) and exec_id.strip() and exec_id.isprintable()
    wanted = KitaruStateError if good and len(exec_id) < 1_000 else KitaruUsageError
    assert isinstance(error, wanted), repr(error)


@pytest.mark.parametrize("exec_id", [*IDS.values(), 7, None])
def test_values_of_an_execution_that_there_is_not(exec_id: Any) -> None:
    assert isinstance(refused(lambda: kitaru.load(exec_id, "fetch")), KitaruError)


@pytest.mark.parametrize("exec_id", IDS.values())
@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("executions get", ()),
        ("executions resume", ()),
        ("executions retry", ()),
        ("executions cancel", ()),
        ("executions input --wait w --value 1", ()),
        ("executions replay --from fetch", ()),
        ("executions resolve --run-again", ("fetch",)),
        ("journal show", ()),
        ("journal verify", ()),
    ],
)
def test_the_command_line_and_an_execution_that_there_is_not(
    words: str, more: tuple[str, ...], exec_id: str
) -> None:
    report.run("a").wait()
    result = command(*words.split(), "--", exec_id, *more)
    assert "execution" in result.stderr.lower()


@pytest.mark.parametrize("page", [{"limit": -1}, {"limit": 0}, {"limit": True}, {"limit": "3"}])
@pytest.mark.parametrize("client", [KitaruClient, AsyncKitaruClient])
def test_a_page_of_a_list(client: Any, page: dict[str, Any]) -> None:
    assert isinstance(refused(lambda: client().executions.list(**page)), KitaruUsageError)


@pytest.mark.parametrize("status", ["done", "", "COMPLETED ", 3])
@pytest.mark.parametrize("client", [KitaruClient, AsyncKitaruClient])
def test_a_status_that_there_is_not(client: Any, status: Any) -> None:
    error = refused(lambda: client().executions.list(status=status))
    assert isinstance(error, KitaruUsageError)
    assert "completed" in str(error)
    assert isinstance(refused(lambda: client().executions.latest(status=status)), KitaruUsageError)


# journals


@flow
def kept() -> str:
    return str(fetch("a"))


def _nowhere(file: Path) -> str:
    (file.parent / "a file").write_text("")
    return f"sqlite:///{file.parent / 'a file' / 'journal.db'}"


def _directory(file: Path) -> str:
    file.mkdir()
    return f"sqlite:///{file}"


def _garbage(file: Path) -> str:
    file.write_bytes(b"this is no journal, but a letter to my aunt. " * 200)
    return f"sqlite:///{file}"


def _other_database(file: Path) -> str:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE aunts (name TEXT)")
        database.execute("PRAGMA user_version = 3")
        database.commit()
    return f"sqlite:///{file}"


def _newer(file: Path) -> str:
    url = _filled(file)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 99")
        database.commit()
    return url


def _cut(file: Path) -> str:
    url = _filled(file)
    content = file.read_bytes()
    file.write_bytes(content[:5_000])
    return url


def _filled(file: Path) -> str:
    kitaru.configure(journal=f"sqlite:///{file}")
    try:
        for _ in range(3):
            kept.run().wait(timeout=30)
        close_background()
    finally:
        kitaru.configure(journal=None)
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return f"sqlite:///{file}"


BROKEN: dict[str, tuple[Callable[[Path], str], str]] = {
    "below a file": (_nowhere, "a file"),
    "a directory": (_directory, "broken.db"),
    "garbage": (_garbage, "broken.db"),
    "another program's database": (_other_database, "broken.db"),
    "of a newer version": (_newer, "broken.db"),
    "cut off": (_cut, "broken.db"),
    "an unknown scheme": (lambda _: "mysql://host/journal", "mysql"),
    "no file": (lambda _: "sqlite:///", "sqlite:///"),
}


@pytest.fixture(params=BROKEN)
def broken(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A journal that cannot be used; and what its errors must name."""
    make, name = BROKEN[request.param]
    monkeypatch.setenv("KITARU_JOURNAL", make(tmp_path / "broken.db"))
    yield name
    close_background()


@pytest.mark.parametrize(
    "call",
    [
        lambda: report.run("a").wait(timeout=30),
        lambda: report_async.sync.run("a").wait(timeout=30),
        lambda: _started(report_async),
        lambda: _started(report),
        lambda: KitaruClient().executions.list(),
        lambda: AsyncKitaruClient().executions.list(),
    ],
)
def test_a_journal_that_cannot_be_used_is_named(broken: str, call: Callable[[], Any]) -> None:
    error = refused(call)
    assert isinstance(error, KitaruBackendError | KitaruUsageError)
    assert broken in str(error)
    close_background()
    # Whoever looks again is told again, and what is no journal is left as it is.
    assert broken in str(refused(call))


async def _started(body: Any) -> Any:
    return await (await body.aio.run("a")).wait(timeout=30)


@pytest.mark.parametrize(
    "words",
    ["status", "executions list", "executions get abcd", "journal verify", "executions resume ab"],
)
def test_the_command_line_names_a_journal_that_cannot_be_used(broken: str, words: str) -> None:
    if broken == "a file" and words in ("status", "executions list"):
        # Where nothing is there is nothing to list, wherever that is.
        return
    result = command(*words.split())
    assert broken in result.stderr


def test_nothing_in_the_name_of_a_journal_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("100%", "a%20b.db", "%00.db", "a b+c.db", "é.db"):
        monkeypatch.setenv("KITARU_JOURNAL", f"sqlite:///{tmp_path / name}")
        exec_id = report.run("a").exec_id
        close_background()
        assert (tmp_path / name).exists()
        assert exec_id in CliRunner().invoke(cli, ["executions", "get", exec_id]).stdout


def test_what_is_no_journal_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, make in {"garbage": _garbage, "other": _other_database, "newer": _newer}.items():
        file = tmp_path / name
        monkeypatch.setenv("KITARU_JOURNAL", make(file))
        before = file.read_bytes()
        refused(lambda: report.run("a"))
        command("executions", "list")
        close_background()
        assert file.read_bytes() == before
    monkeypatch.setenv("KITARU_JOURNAL", f"sqlite:///{tmp_path / 'good.db'}")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE events SET payload = X'7b7d' WHERE version = 1",
        "UPDATE events SET payload = X'ffff' WHERE version = 2",
        "UPDATE events SET type = 'no_such_event' WHERE version = 2",
        "UPDATE events SET hash = zeroblob(32) WHERE version = 2",
        "DELETE FROM events WHERE version = 2",
    ],
)
def test_a_damaged_execution_is_told_and_leaves_the_others_alone(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "damaged.db"
    monkeypatch.setenv("KITARU_JOURNAL", _filled(file))
    ids = [each.exec_id for each in KitaruClient().executions.list()]
    close_background()
    with contextlib.closing(sqlite3.connect(file)) as database:
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            database.execute(f"DROP TRIGGER {name}")
        (stream,) = database.execute(
            "SELECT id FROM heads WHERE stream = ?", (f"execution-{ids[0]}",)
        ).fetchone()
        database.execute(f"{damage} AND stream = {stream}")
        database.commit()
    found = CliRunner().invoke(cli, ["journal", "verify"])
    assert found.exit_code != 0
    assert ids[0] in found.output
    assert ids[1] not in found.output
    shown = CliRunner().invoke(cli, ["journal", "show", ids[0]])
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    for other in ids[1:]:
        assert KitaruClient().executions.handle(other).get() == "<a>"
    # Looking at it and steering it raise nothing but typed errors.
    for look in (
        lambda: KitaruClient().executions.get(ids[0]),
        lambda: KitaruClient().executions.handle(ids[0]).get(),
        lambda: KitaruClient().executions.retry(ids[0]),
        lambda: report.replay(ids[0], from_="fetch"),
    ):
        with contextlib.suppress(KitaruError):
            look()
