"""A transactional checkpoint's writes are there exactly once, and never without its outcome."""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from journal import CommitOutcomeUnknown, SqliteTransaction
from journal.backends.sqlite.shared import SharedTransaction
from kitaru import checkpoint, flow
from kitaru.bootstrap import close_background, current_runtime
from kitaru.domain.execution.events import CheckpointCompleted, CheckpointFailed
from kitaru.engine import transactions
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event

STUCK_SECONDS = 60
executions = kitaru.KitaruClient().executions
database = ""
"""Where the checkpoints of the running test write: the journal's own file, or another."""


def nothing() -> None:
    """What happens unless a test says so."""


before: Callable[[], None] = nothing
after: Callable[[], None] = nothing
"""What happens in a body in front of its statement, and behind it."""


def where() -> str:
    return database


@pytest.fixture(autouse=True, params=["shared", "separate"])
def kind(request: pytest.FixtureRequest, journal_file: Path, tmp_path: Path) -> Iterator[str]:
    global database, before, after
    before = after = nothing
    kitaru.configure(journal=f"sqlite:///{journal_file}")
    current_runtime()
    database = str(journal_file if request.param == "shared" else tmp_path / "own.db")
    with connected() as connection:
        connection.execute("CREATE TABLE orders (id TEXT, n INTEGER)")
    yield request.param
    close_background()
    kitaru.configure(journal=None, lease_seconds=None)


@contextlib.contextmanager
def connected() -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's, which waits when the database is locked."""
    connection = sqlite3.connect(database, timeout=30, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def orders() -> list[str]:
    with connected() as connection:
        return [row[0] for row in connection.execute("SELECT id FROM orders ORDER BY rowid")]


def events_of(exec_id: str) -> list[Any]:
    runtime = current_runtime()
    reading = runtime.journal.read_stream(stream_of(exec_id))
    facts = asyncio.run_coroutine_threadsafe(reading, runtime.loop).result()
    return [decode_event(fact) for fact in facts]


def completed(exec_id: str, path: str = "") -> list[CheckpointCompleted]:
    found = [each for each in events_of(exec_id) if isinstance(each, CheckpointCompleted)]
    return [each for each in found if path in ("", each.path)]


def insert(order: str) -> str:
    before()
    tx = kitaru.transaction()
    tx.execute("INSERT INTO orders VALUES (?, ?)", (order, 1))
    (count,) = tx.execute("SELECT count(*) FROM orders").first() or (0,)
    after()
    return f"{order} is number {count}"


@checkpoint(transaction=where, retries=1)
def put(order: str) -> str:
    return insert(order)


@checkpoint(transaction=where, retries=1)
async def put_async(order: str) -> str:
    await asyncio.to_thread(before)
    tx = kitaru.transaction().aio
    await tx.execute("INSERT INTO orders VALUES (?, ?)", (order, 1))
    rows = await tx.execute("SELECT count(*) FROM orders")
    await asyncio.to_thread(after)
    return f"{order} is number {rows.found[0][0]}"


@checkpoint(cache=False)
def note(text: str) -> str:
    return text


@flow
def direct(order: str) -> str:
    return put(order)


@flow
def submitted(order: str) -> str:
    beside = note.submit("beside")
    future = put.submit(order)
    beside.result()
    return future.result()


@flow
def sync_flow_of_async(order: str) -> str:
    return put_async.sync(order)


@flow
async def awaited(order: str) -> str:
    return await put_async(order)


@flow
async def gathered(order: str) -> str:
    both = await asyncio.gather(note.aio("beside"), put.aio(order))
    return both[1]


BODIES = [direct, submitted, sync_flow_of_async, awaited, gathered]
every_body = pytest.mark.parametrize("body", BODIES, ids=lambda body: body.definition.name)


def started(body: Any, *args: Any) -> Any:
    return body.sync.run(*args)


def result(body: Any, *args: Any) -> Any:
    return started(body, *args).wait(timeout=STUCK_SECONDS)


@every_body
def test_writes_and_outcome_are_there(body: Any, kind: str) -> None:
    handle = started(body, "one")
    assert handle.wait(timeout=STUCK_SECONDS) == "one is number 1"
    assert orders() == ["one"]
    path = "put_async" if body in (sync_flow_of_async, awaited) else "put"
    assert len(completed(handle.exec_id, path)) == 1
    if kind == "separate":
        with connected() as connection:
            kept = connection.execute("SELECT exec_id, path FROM kitaru_checkpoints").fetchall()
        assert kept == [(handle.exec_id, path)]


@every_body
def test_what_an_attempt_that_raises_has_written_is_rolled_back(body: Any) -> None:
    global after
    attempts: list[int] = []

    def fail_at_first() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")

    after = fail_at_first
    handle = started(body, "one")
    assert handle.wait(timeout=STUCK_SECONDS) == "one is number 1"
    assert orders() == ["one"]
    failed = [each for each in events_of(handle.exec_id) if isinstance(each, CheckpointFailed)]
    assert len(failed) == 1


tries = 0


@flow(retries=2)
def other_each_time() -> str:
    global tries
    tries += 1
    told = put(f"order {tries}")
    if tries < 3:
        raise ValueError(told)
    return told


@flow(retries=2)
async def other_each_time_async() -> str:
    global tries
    tries += 1
    told = await put_async(f"order {tries}")
    if tries < 3:
        raise ValueError(told)
    return told


@pytest.mark.parametrize("body", [other_each_time, other_each_time_async], ids=["sync", "async"])
def test_a_flow_that_is_tried_again_may_call_with_other_arguments(body: Any) -> None:
    """As with every other checkpoint: what is recorded at the path belongs to another call."""
    global tries
    tries = 0
    assert result(body) == "order 3 is number 3"
    assert orders() == ["order 1", "order 2", "order 3"]


@every_body
def test_a_body_that_raises_in_the_end_leaves_nothing(body: Any) -> None:
    global after

    def fail() -> None:
        raise ValueError("never")

    after = fail
    with pytest.raises(kitaru.KitaruUserCodeError, match="never"):
        result(body, "one")
    assert orders() == []
    after = nothing
    assert result(body, "two") == "two is number 1"


@every_body
def test_a_result_that_cannot_be_kept_leaves_nothing(body: Any) -> None:
    @checkpoint(transaction=where)
    def bad() -> object:
        kitaru.transaction().execute("INSERT INTO orders VALUES ('x', 1)")
        return threading.Lock()

    @flow
    def sync_body() -> object:
        return bad() if body is direct else bad.submit().result()

    @flow
    async def async_body() -> object:
        return await bad.aio()

    with pytest.raises(kitaru.KitaruExecutionError, match="lock"):
        result(async_body if body in (awaited, gathered) else sync_body)
    assert orders() == []


@every_body
@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "ATTACH ':memory:' AS other",
        "PRAGMA journal_mode = DELETE",
        "DELETE FROM heads",
        "DROP TABLE events",
        "DELETE FROM kitaru_checkpoints",
    ],
)
def test_what_would_end_or_evade_the_transaction_is_refused(
    body: Any, statement: str, kind: str
) -> None:
    global after
    table = statement.split()[-1]
    if table in ("heads", "events") and kind == "separate":
        pytest.skip("these are the journal's own")
    if table == "kitaru_checkpoints":
        if kind == "shared":
            pytest.skip("this is another database's")
        assert result(direct, "zero")

    def refused() -> None:
        kitaru.transaction().execute(statement)

    after = refused
    count = len(orders())
    with pytest.raises(kitaru.KitaruExecutionError) as caught:
        result(body, "one")
    assert isinstance(caught.value.__cause__, kitaru.KitaruUsageError)
    assert len(orders()) == count


def test_commit_and_rollback_are_no_business_of_a_body() -> None:
    @checkpoint(transaction=where)
    def ends_it(how: str) -> None:
        kitaru.transaction().execute("INSERT INTO orders VALUES ('x', 1)")
        getattr(kitaru.transaction(), how)()

    @flow
    def ending(how: str) -> None:
        ends_it(how)

    for how in ("commit", "rollback"):
        with pytest.raises(kitaru.KitaruExecutionError, match="is not for a checkpoint's body"):
            result(ending, how)
    assert orders() == []


@every_body
def test_constraints_that_are_checked_at_the_commit_fail_the_call(body: Any) -> None:
    with connected() as connection:
        connection.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE "
            "INITIALLY DEFERRED)"
        )

    @checkpoint(transaction=where)
    def orphan() -> None:
        kitaru.log(noted=True)
        kitaru.transaction().execute("INSERT INTO children VALUES (7)")

    @flow
    def sync_body() -> str:
        try:
            orphan() if body is direct else orphan.submit().result()
        except sqlite3.IntegrityError as error:
            return note(str(error))
        return "committed"

    @flow
    async def async_body() -> str:
        try:
            await orphan.aio()
        except sqlite3.IntegrityError as error:
            return await note.aio(str(error))
        return "committed"

    found = result(async_body if body in (awaited, gathered) else sync_body)
    assert found == "FOREIGN KEY constraint failed"
    with connected() as connection:
        assert connection.execute("SELECT * FROM children").fetchall() == []


@every_body
def test_a_transaction_that_sqlite_has_rolled_back_is_not_taken_for_committed(body: Any) -> None:
    with connected() as connection:
        connection.execute("CREATE TABLE once (id TEXT PRIMARY KEY)")
        connection.execute("INSERT INTO once VALUES ('taken')")

    @checkpoint(transaction=where)
    def swallows() -> None:
        tx = kitaru.transaction()
        tx.execute("INSERT INTO orders VALUES ('x', 1)")
        with contextlib.suppress(sqlite3.IntegrityError):
            tx.execute("INSERT OR ROLLBACK INTO once VALUES ('taken')")

    @flow
    def sync_body() -> None:
        swallows() if body is direct else swallows.submit().result()

    @flow
    async def async_body() -> None:
        await swallows.aio()

    with pytest.raises(kitaru.KitaruExecutionError) as caught:
        result(async_body if body in (awaited, gathered) else sync_body)
    assert isinstance(caught.value.__cause__, kitaru.KitaruTransactionError)
    assert orders() == []


@every_body
def test_whoever_lost_the_lease_commits_nothing(body: Any, kind: str) -> None:
    global before
    if kind == "separate":
        pytest.skip("there the table decides, whoever has the lease")
    journal = current_runtime().journal.location

    def lose() -> None:
        global before
        before = nothing
        with contextlib.closing(sqlite3.connect(journal, timeout=30)) as thief, thief:
            thief.execute("UPDATE heads SET epoch = epoch + 1, owner = 'thief', lease_until = 0")

    before = lose
    handle = started(body, "one")
    # The thief never comes to it; then this process takes it over again, and writes once.
    assert handle.wait(timeout=STUCK_SECONDS) == "one is number 1"
    assert orders() == ["one"]


@every_body
def test_of_two_that_run_a_call_at_once_the_first_to_commit_counts(body: Any, kind: str) -> None:
    global before
    if kind == "shared":
        pytest.skip("there the lease decides")
    assert result(direct, "zero") == "zero is number 1"

    def overtaken() -> None:
        exec_id = kitaru.current_execution_id()
        path = "put_async" if body in (sync_flow_of_async, awaited) else "put"
        digest = digest_of_one(path)
        with connected() as other:
            other.execute("INSERT INTO orders VALUES ('one', 1)")
            other.execute(
                "INSERT INTO kitaru_checkpoints (exec_id, path, name, arguments_digest, result) "
                "VALUES (?, ?, ?, ?, ?)",
                (exec_id, path, path, digest, b'"the other was faster"'),
            )

    before = overtaken
    assert result(body, "one") == "the other was faster"
    assert orders() == ["zero", "one"]


def digest_of_one(path: str) -> str:
    """The digest of the arguments ("one") of both checkpoints, as a call has it."""
    from kitaru.engine.calls import Call
    from kitaru.engine.codec import Codec

    definition: Any = (put_async if path == "put_async" else put).definition
    call = Call(definition, path, "", definition.binder.name_all(("one",), {}))
    call.encode(Codec())
    return call.digest


@every_body
def test_an_outcome_that_the_journal_missed_is_adopted_without_running(
    body: Any, kind: str
) -> None:
    if kind == "shared":
        pytest.skip("there is no moment in between")
    ran: list[str] = []

    @checkpoint(transaction=where)
    def charge(order: str) -> str:
        ran.append(order)
        kitaru.transaction().execute("INSERT INTO orders VALUES (?, 1)", (order,))
        return "charged"

    @flow
    def sync_body(order: str) -> str:
        remember("other" if order == "changed" else order)
        return charge(order) if body is direct else charge.submit(order).result()

    @flow
    async def async_body(order: str) -> str:
        remember("other" if order == "changed" else order)
        return await charge.aio(order)

    def remember(order: str) -> None:
        from kitaru.engine.calls import Call
        from kitaru.engine.codec import Codec

        call = Call(charge.definition, "charge", "", {"order": order})
        call.encode(Codec())
        with connected() as other:
            other.execute(
                "INSERT OR IGNORE INTO kitaru_checkpoints "
                "(exec_id, path, name, arguments_digest, result) VALUES (?, 'charge', 'charge', "
                "?, ?)",
                (kitaru.current_execution_id(), call.digest, b'"before the crash"'),
            )

    assert result(direct, "zero")
    chosen = async_body if body in (awaited, gathered) else sync_body
    assert result(chosen, "one") == "before the crash"
    with pytest.raises(kitaru.KitaruDivergenceError):
        result(chosen, "changed")
    assert ran == []
    assert orders() == ["zero"]


@every_body
def test_a_clients_event_in_front_of_the_outcome_is_taken_in(body: Any) -> None:
    global before

    def cancel() -> None:
        exec_id = kitaru.current_execution_id()
        cancelling = threading.Thread(target=executions.cancel, args=(exec_id,))
        cancelling.start()
        cancelling.join()

    before = cancel
    handle = started(body, "one")
    with pytest.raises(kitaru.KitaruCancelledError):
        handle.wait(timeout=STUCK_SECONDS)
    path = "put_async" if body in (sync_flow_of_async, awaited) else "put"
    # Whether the cancel or the outcome came first: the writes are there if the outcome is.
    assert len(orders()) == len(completed(handle.exec_id, path))


@every_body
def test_a_cancel_between_a_commit_and_its_outcome_leaves_no_write_without_one(
    body: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "shared":
        pytest.skip("there is no moment in between")
    settle = transactions.SeparateAttempt.settle

    def settle_and_cancel(self: Any, *arguments: Any) -> Any:
        found = settle(self, *arguments)
        executions.cancel(handles[0].exec_id)
        runner: Any = current_runtime().worker.runners.get(handles[0].exec_id)
        end = time.monotonic() + 1
        # Until the body has been given it, where that is not only after the outcome.
        while time.monotonic() < end and runner is not None:
            root = getattr(runner, "root", None)
            if runner.state.cancel_delivered and (root is None or root.done()):
                break
            time.sleep(0.001)
        return found

    begun = threading.Event()
    handles: list[Any] = []
    monkeypatch.setattr(transactions.SeparateAttempt, "settle", settle_and_cancel)

    def wait_for_the_handle() -> None:
        begun.wait(STUCK_SECONDS)

    global before
    before = wait_for_the_handle
    handles.append(started(body, "one"))
    begun.set()
    with pytest.raises(kitaru.KitaruCancelledError):
        handles[0].wait(timeout=STUCK_SECONDS)
    path = "put_async" if body in (sync_flow_of_async, awaited) else "put"
    assert orders() == ["one"]
    assert len(completed(handles[0].exec_id, path)) == 1


@every_body
def test_a_transaction_that_is_open_for_too_long_stops_nobody_else(
    body: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    global after
    if kind == "separate":
        pytest.skip("it is somebody else's database, and locks no journal")
    monkeypatch.setattr(transactions, "LONGEST_SECONDS", 0.2)
    others: list[str] = []

    @flow
    def other() -> str:
        return note("the others go on")

    def hold() -> None:
        handle = other.run()
        waiting = threading.Thread(target=lambda: others.append(handle.wait(timeout=STUCK_SECONDS)))
        waiting.start()
        waiting.join()

    after = hold
    with pytest.raises(kitaru.KitaruExecutionError) as caught:
        result(body, "one")
    assert isinstance(caught.value.__cause__, kitaru.KitaruTransactionError)
    assert others == ["the others go on"]
    assert orders() == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_others_of_the_execution_record_meanwhile_goes_into_the_same_append(
    colour: str, kind: str
) -> None:
    global after
    if kind == "separate":
        pytest.skip("there the journal is not locked")
    begun = threading.Event()

    @checkpoint(cache=False)
    def beside() -> None:
        begun.wait(STUCK_SECONDS)

    @flow
    def sync_body() -> None:
        first, second = beside.submit(), put.submit("one")
        second.result()
        first.result()

    @flow
    async def async_body() -> None:
        await asyncio.gather(beside.aio(), put.aio("one"))

    def let_the_other_end() -> None:
        begun.set()
        execution = current_runtime().worker.runners[kitaru.current_execution_id() or ""].execution
        end = time.monotonic() + transactions.LONGEST_SECONDS
        while not any(isinstance(each.event, CheckpointCompleted) for each in execution.outbox):
            assert time.monotonic() < end, "it was appended, or never came"
            time.sleep(0.001)

    after = let_the_other_end
    handle = started(sync_body if colour == "sync" else async_body)
    handle.wait(timeout=STUCK_SECONDS)
    runtime = current_runtime()
    reading = runtime.journal.read_stream(stream_of(handle.exec_id))
    facts = asyncio.run_coroutine_threadsafe(reading, runtime.loop).result()
    outcomes = [fact for fact in facts if fact.type == "checkpoint_completed"]
    assert len(outcomes) == 2
    assert len({fact.recorded_at for fact in outcomes}) == 1


COUNT = 20


@checkpoint(transaction=where)
def add(number: int) -> int:
    tx = kitaru.transaction()
    (found,) = tx.execute("SELECT n FROM orders WHERE id = 'sum'").first() or (0,)
    tx.execute("UPDATE orders SET n = ? WHERE id = 'sum'", (found + number,))
    return number


@checkpoint(transaction=where)
async def add_async(number: int) -> int:
    tx = kitaru.transaction().aio
    (found,) = (await tx.execute("SELECT n FROM orders WHERE id = 'sum'")).first() or (0,)
    await asyncio.sleep(0)
    await tx.executemany("UPDATE orders SET n = ? WHERE id = 'sum'", [(found + number,)])
    return number


@flow
def fan_out() -> int:
    beside = note.map([str(number) for number in range(COUNT)])
    total = sum(future.result() for future in add.map(range(COUNT)))
    return total + len([future.result() for future in beside]) - COUNT


@flow
async def fan_out_async() -> int:
    calls = [add_async(number) if number % 2 else add.aio(number) for number in range(COUNT)]
    beside = [note.aio(str(number)) for number in range(COUNT)]
    done = await asyncio.gather(*calls, *beside)
    return sum(number for number in done if isinstance(number, int))


@pytest.mark.parametrize("body", [fan_out, fan_out_async], ids=["sync", "async"])
def test_many_at_once_do_not_lose_each_others_writes(body: Any) -> None:
    with connected() as connection:
        connection.execute("INSERT INTO orders VALUES ('sum', 0)")
    handles = [started(body) for _ in range(3)]
    total = sum(range(COUNT))
    assert [handle.wait(timeout=STUCK_SECONDS) for handle in handles] == [total] * 3
    with connected() as connection:
        assert connection.execute("SELECT n FROM orders").fetchall() == [(3 * total,)]


def test_a_call_that_is_cancelled_lets_go_of_the_database() -> None:
    @checkpoint(transaction=where)
    async def hangs() -> None:
        await kitaru.transaction().aio.execute("INSERT INTO orders VALUES ('x', 1)")
        await asyncio.sleep(STUCK_SECONDS)

    @flow
    async def impatient() -> str:
        try:
            async with asyncio.timeout(0.5):
                await hangs()
        except TimeoutError:
            return await put_async("after")
        return "never"

    assert result(impatient) == "after is number 1"
    assert orders() == ["after"]


def test_logs_and_artifacts_of_a_body_are_recorded_with_it() -> None:
    @checkpoint(transaction=where)
    def tells() -> None:
        kitaru.transaction().execute("INSERT INTO orders VALUES ('x', 1)")
        kitaru.log(tokens=3)
        kitaru.save("kept", [1, 2])

    @flow
    def telling() -> None:
        tells()

    handle = started(telling)
    handle.wait(timeout=STUCK_SECONDS)
    assert kitaru.load(handle.exec_id, "kept") == [1, 2]


def test_a_runtime_that_closes_rolls_back_what_is_open() -> None:
    global after
    entered, go = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        go.wait(STUCK_SECONDS)

    after = hold
    started(direct, "one")
    assert entered.wait(STUCK_SECONDS)
    close_background()
    assert orders() == []
    go.set()


def test_nothing_is_remembered_of_a_body_that_ran_no_statement(kind: str) -> None:
    @checkpoint(transaction=where)
    def idle() -> int:
        return 3

    @flow
    def idling() -> int:
        return idle()

    assert result(idling) == 3
    with connected() as connection:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'kitaru_checkpoints'"
        assert connection.execute(query).fetchone() == (0,)


def test_a_transaction_is_there_only_where_it_was_asked_for() -> None:
    with pytest.raises(kitaru.KitaruContextError, match="only be used inside"):
        kitaru.transaction()

    @checkpoint(cache=False)
    def without() -> None:
        kitaru.transaction()

    @flow
    def forgetful() -> None:
        without()

    with pytest.raises(kitaru.KitaruExecutionError, match="has no transaction"):
        result(forgetful)


def test_what_outlives_its_body_writes_nothing() -> None:
    leaked: list[kitaru.Transaction] = []

    @checkpoint(transaction=where)
    def leaks() -> None:
        tx = kitaru.transaction()
        tx.execute("INSERT INTO orders VALUES ('in time', 1)")
        leaked.append(tx)

    @flow
    def leaking() -> None:
        leaks()

    result(leaking)
    with pytest.raises(kitaru.KitaruTransactionError, match="is committed"):
        leaked[0].execute("INSERT INTO orders VALUES ('too late', 1)")
    assert orders() == ["in time"]


def test_a_statement_on_an_event_loop_is_refused() -> None:
    @checkpoint(transaction=where)
    async def blocks() -> None:
        kitaru.transaction().execute("INSERT INTO orders VALUES ('x', 1)")

    @flow
    async def blocking() -> None:
        await blocks()

    with pytest.raises(kitaru.KitaruExecutionError, match=r"aio\.execute"):
        result(blocking)
    assert orders() == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"transaction": "relative.db"}, "absolute path"),
        ({"transaction": ""}, "must be True"),
        ({"transaction": 3}, "must be True"),
        ({"transaction": "sqlite:///relative.db"}, "absolute path"),
        ({"transaction": True, "effect": "once"}, "leave out effect"),
        ({"transaction": True, "cache": True}, "leave out cache"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match=problem):
        checkpoint(**options)


@pytest.mark.parametrize("body", [direct, awaited], ids=["sync", "async"])
@pytest.mark.parametrize("location", ["relative.db", None, "raises", "no/such/folder"])
def test_a_location_that_is_none_fails_the_call(
    body: Any, location: str | None, tmp_path: Path
) -> None:
    def locate() -> str:
        if location == "raises":
            raise LookupError("nobody knows")
        return f"{tmp_path}/{location}" if location == "no/such/folder" else location  # type: ignore[return-value]

    @checkpoint(transaction=locate)
    def writes() -> None:
        kitaru.transaction().execute("SELECT 1")

    @flow
    def sync_body() -> str:
        try:
            writes()
        except Exception as error:
            return note(type(error).__name__)
        return "written"

    @flow
    async def async_body() -> str:
        try:
            await writes.aio()
        except Exception as error:
            return await note.aio(type(error).__name__)
        return "written"

    expected = "OperationalError" if location == "no/such/folder" else "KitaruUsageError"
    assert result(sync_body if body is direct else async_body) == expected


@pytest.mark.parametrize(
    ("location", "shown"),
    [(None, "not None"), ("", "not ''"), (5, "not a int"), (False, "not a bool")],
)
def test_a_location_that_is_none_is_shown(location: Any, shown: str) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match=shown):
        transactions.Database(lambda: location).path()


def test_a_function_may_name_the_journals_own_database(kind: str) -> None:
    if kind == "separate":
        pytest.skip("the table is in the journal's file")

    @checkpoint(transaction=lambda: True)
    def writes() -> str:
        return insert("one")

    @flow
    def writing() -> str:
        return writes()

    assert result(writing) == "one is number 1"
    assert orders() == ["one"]


def test_a_thread_that_a_body_starts_is_given_its_transaction() -> None:
    @checkpoint(transaction=where)
    def writes() -> str:
        asked = threading.Thread(target=lambda: told.append(transaction_here()))
        asked.start()
        asked.join()
        return insert("one")

    @flow
    def writing() -> str:
        return writes()

    def transaction_here() -> str:
        try:
            return str(kitaru.transaction())
        except kitaru.KitaruContextError as error:
            return str(error)

    told: list[str] = []
    assert result(writing) == "one is number 1"
    assert "A thread that a checkpoint has started is given what it returns there" in told[0]


def test_other_databases_do_not_exist_yet() -> None:
    with pytest.raises(kitaru.KitaruFeatureNotAvailableError, match="SQLite") as caught:
        checkpoint(transaction="postgresql://me:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_url_and_a_path_name_the_same_file(tmp_path: Path) -> None:
    assert transactions.path_of(f"sqlite:///{tmp_path}/a b.db") == f"{tmp_path}/a b.db"
    assert transactions.path_of(tmp_path / "a.db") == os.fspath(tmp_path / "a.db")


def test_a_journal_in_memory_has_no_transaction_of_its_own() -> None:
    @checkpoint(transaction=True)
    def writes() -> None:
        kitaru.transaction().execute("SELECT 1")

    @flow
    def writing() -> None:
        writes()

    kitaru.configure(journal="memory://")
    with pytest.raises(kitaru.KitaruExecutionError, match="a file for the journal"):
        result(writing)


def test_a_journal_in_memory_goes_with_another_database(kind: str) -> None:
    if kind == "shared":
        pytest.skip("there is no file to share")
    kitaru.configure(journal="memory://")
    assert result(direct, "one") == "one is number 1"


@every_body
@pytest.mark.parametrize("happens", [True, False])
def test_when_nobody_knows_whether_it_is_committed_a_later_runner_finds_out(
    body: Any, happens: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_background()
    kitaru.configure(lease_seconds=1)
    failures: list[str] = []

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def commit(self: SqliteTransaction, argument: Any) -> Any:
            if failures:
                return real(self, argument)
            failures.append("unknown")
            if happens:
                real(self, argument)
            raise CommitOutcomeUnknown("the disk says nothing")

        return commit

    of, name = (SharedTransaction, "append") if kind == "shared" else (SqliteTransaction, "commit")
    monkeypatch.setattr(of, name, failing(getattr(of, name)))
    handle = started(body, "one")
    # Whoever waits while the runner is let down is told so; the execution goes on.
    with contextlib.suppress(kitaru.KitaruBackendError):
        handle.wait(timeout=STUCK_SECONDS)
    assert handle.wait(timeout=STUCK_SECONDS) == "one is number 1"
    assert failures == ["unknown"]
    assert orders() == ["one"]
