"""The law: code that no longer asks for what is recorded stops, is told why, and can come back."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

import kitaru
from journal import RecordedEvent
from kitaru.divergence import DivergenceStory as Story
from kitaru.domain.execution.events import ArgumentsChanged
from kitaru.engine.upcasts import decode_event
from kitaru.operations import executions
from kitaru.projections.timeline import timeline_of as kitaru_timeline
from kitaru.verdicts import Judgement


class Change(NamedTuple):
    """How a body is changed, and what is to be told of it."""

    old: str
    new: str
    story: Story
    recorded: str
    asked: str | None
    told: tuple[str, ...]
    """What the report says among other things."""


CHANGES = {
    "a call of the same name inserted": Change(
        'a = fetch("a")\nb = fetch("b")\nreturn a + b',
        'fetch("new")\na = fetch("a")\nb = fetch("b")\nreturn a + b',
        Story.INSERTED,
        "fetch",
        "fetch",
        (
            "a call of `fetch` was inserted at changing.py:30",
            "before the one recorded at changing.py:30.",
        ),
    ),
    "a call of the same name inserted between": Change(
        'a = fetch("a")\nb = fetch("b")\nreturn a + b',
        'a = fetch("a")\nfetch("new")\nb = fetch("b")\nreturn a + b',
        Story.INSERTED,
        "fetch#2",
        "fetch#2",
        ("a call of `fetch` was inserted at changing.py:31",),
    ),
    "a call of another name inserted": Change(
        'a = fetch("a")\nreturn save(a)',
        'prepare(1)\na = fetch("a")\nreturn save(a)',
        Story.INSERTED,
        "fetch",
        "prepare",
        ("a call of `prepare` was inserted at changing.py:30, before the call of `fetch`",),
    ),
    "one of several of the same name removed": Change(
        'fetch("a")\nb = fetch("b")\nreturn save(b)',
        'b = fetch("b")\nreturn save(b)',
        Story.REMOVED,
        "fetch",
        "fetch",
        ("the call of `fetch` recorded at changing.py:30 was removed", "fetch#2"),
    ),
    "a call removed": Change(
        'a = fetch("a")\nprepare(1)\nreturn save(a)',
        'a = fetch("a")\nreturn save(a)',
        Story.REMOVED,
        "prepare",
        "save",
        ("the call of `prepare` recorded at changing.py:31 was removed",),
    ),
    "the last call removed": Change(
        'a = fetch("a")\nsave(a)\nreturn a',
        'a = fetch("a")\nreturn a',
        Story.REMOVED,
        "save",
        None,
        ("was removed: the code returns without it", "now       it returns"),
    ),
    "a checkpoint renamed": Change(
        'a = fetch("a")\nreturn save(a)',
        'a = load("a")\nreturn save(a)',
        Story.RENAMED,
        "fetch",
        "load",
        ("`fetch` was renamed to `load` at changing.py:30",),
    ),
    "a call replaced": Change(
        'a = fetch("a")\nreturn save(a)',
        "a = prepare(5)\nreturn save(a)",
        Story.REPLACED,
        "fetch",
        "prepare",
        ("the call of `fetch` was replaced by a call of `prepare`",),
    ),
    "calls of two names swapped": Change(
        'prepare(1)\na = fetch("a")\nreturn a',
        'a = fetch("a")\nprepare(1)\nreturn a',
        Story.SWAPPED,
        "prepare",
        "fetch",
        ("the call of `fetch` at changing.py:30 now comes before the call of `prepare`",),
    ),
    "calls of one name swapped": Change(
        'a = fetch("a")\nb = fetch("b")\nreturn a + b',
        'b = fetch("b")\na = fetch("a")\nreturn a + b',
        Story.SWAPPED,
        "fetch",
        "fetch",
        ("two calls of `fetch` were swapped", "fetch#2"),
    ),
    "an argument changed": Change(
        'a = fetch("a")\nreturn save({"at": [1, {"url": a}]})',
        'a = fetch("a")\nreturn save({"at": [1, {"url": "b"}]})',
        Story.CHANGED_ARGUMENTS,
        "save",
        "save",
        ("data.at[1].url: 'a' -> 'b'", "the call of `save` at changing.py:31 has other arguments"),
    ),
    "the same calls, one with another argument": Change(
        'fetch("x")\nfetch("x")\nreturn 1',
        'fetch("y")\nfetch("x")\nreturn 1',
        Story.CHANGED_ARGUMENTS,
        "fetch",
        "fetch",
        ("url: 'x' -> 'y'",),
    ),
    "fewer rounds": Change(
        "for n in [1, 2, 3]:\n    prepare(n)\nreturn 1",
        "for n in [1, 2]:\n    prepare(n)\nreturn 1",
        Story.FEWER_CALLS,
        "prepare#3",
        None,
        ("`prepare` is called less often than is recorded: `for n in [1, 2]`",),
    ),
    "more rounds, before a recorded call": Change(
        'for n in [1, 2]:\n    prepare(n)\nreturn fetch("a")',
        'for n in [1, 2, 3]:\n    prepare(n)\nreturn fetch("a")',
        Story.MORE_CALLS,
        "fetch",
        "prepare#3",
        ("`prepare` is called more often than is recorded: another call at changing.py:31",),
    ),
    "an error before it": Change(
        'a = fetch("a")\nsave(a)\nreturn a',
        'a = fetch("a")\nif a:\n    raise ValueError("too long")\nsave(a)\nreturn a',
        Story.FEWER_CALLS,
        "save",
        None,
        ("the code now raises ValueError: too long before it comes to the call of `save`",),
    ),
    "another branch by random": Change(
        'if random.random() < 2:\n    fetch("a")\nelse:\n    load("b")\nreturn 1',
        'if random.random() > 2:\n    fetch("a")\nelse:\n    load("b")\nreturn 1',
        Story.OTHER_BRANCH,
        "fetch",
        "load",
        ("`if random.random() > 2` (changing.py:30)", "kitaru.random()"),
    ),
    "another branch by time": Change(
        "late = time.time() > 0\nif late:\n    save(1)\nreturn 1",
        "late = time.time() < 0\nif late:\n    save(1)\nreturn 1",
        Story.OTHER_BRANCH,
        "save",
        None,
        ("`if late` (changing.py:31)", "the time decides here: use `kitaru.now()`"),
    ),
    "another branch by the environment": Change(
        'if not os.environ.get("NO_SUCH_THING"):\n    prepare(1)\nreturn fetch("a")',
        'if os.environ.get("NO_SUCH_THING"):\n    prepare(1)\nreturn fetch("a")',
        Story.OTHER_BRANCH,
        "prepare",
        "fetch",
        ("the environment decides here", "(changing.py:30)"),
    ),
    "the order of a set": Change(
        'for n in ["y", "x", "z"]:\n    prepare(n)\nreturn 1',
        "class Shuffled(set):\n"
        '    def __iter__(self):\n        return iter(["z", "x", "y"])\n'
        'for n in Shuffled(["x", "y", "z"]):\n    prepare(n)\nreturn 1',
        Story.SWAPPED,
        "prepare",
        "prepare",
        ("calls `prepare` in another order", "a set gives its items in another order"),
    ),
    "the order of a set in an argument": Change(
        'return save(["x", "y", "z"])',
        'return save(["y", "z", "x"])',
        Story.CHANGED_ARGUMENTS,
        "save",
        "save",
        ("data has the same items in another order",),
    ),
    "the time as an argument": Change(
        "return save(time.time())",
        "return save(time.time())",
        Story.CHANGED_ARGUMENTS,
        "save",
        "save",
        ("data looks like a time: use `kitaru.now()`",),
    ),
    "an aware time as an argument": Change(
        "return save(datetime.now(UTC))",
        "return save(datetime.now(UTC))",
        Story.CHANGED_ARGUMENTS,
        "save",
        "save",
        ("data looks like a time: use `kitaru.now()`",),
    ),
    "a random number as an argument": Change(
        "return save([random.random()])",
        "return save([random.random()])",
        Story.CHANGED_ARGUMENTS,
        "save",
        "save",
        ("data[0] looks like a random number: use `kitaru.random()`",),
    ),
    "a UUID as an argument": Change(
        "return save(uuid.uuid4())",
        "return save(uuid.uuid4())",
        Story.CHANGED_ARGUMENTS,
        "save",
        "save",
        ("data looks like a UUID: use `kitaru.uuid4()`",),
    ),
    "an id given": Change(
        'a = fetch("a")\nreturn save(a)',
        'a = fetch("a", id="first")\nreturn save(a)',
        Story.MOVED,
        "fetch",
        "first",
        ("it is recorded as fetch, and is made as first now",),
    ),
    "a checkpoint behind another one's id": Change(
        'a = fetch("a", id="same")\nreturn save(a)',
        'a = prepare(1, id="same")\nreturn save(a)',
        Story.CHANGED_KIND,
        "same",
        "same",
        ("`same` is recorded as the checkpoint `fetch`, and is the checkpoint `prepare` now",),
    ),
    "a wait renamed while it was open": Change(
        'return kitaru.wait(name="first")',
        'return kitaru.wait(name="second")',
        Story.RENAMED,
        "first",
        "second",
        ("`first` was renamed to `second`", "(still open)"),
    ),
    "a call inserted before an open wait": Change(
        'return kitaru.wait(name="first")',
        'prepare(1)\nreturn kitaru.wait(name="first")',
        Story.INSERTED,
        "first",
        "prepare",
        ("a call of `prepare` was inserted at changing.py:30, before the wait `first`",),
    ),
}
each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))


def bare(facts: list[RecordedEvent]) -> list[tuple[Any, ...]]:
    return [(fact.version, fact.type, fact.payload, fact.hash) for fact in facts]


@each_change
async def test_the_likeliest_story_is_told(workshop: Any, change: Change) -> None:
    error = await workshop.diverged(change.old, change.new)
    assert error.story == change.story, str(error)
    assert error.recorded.path == change.recorded
    assert [call.path for call in error.asked[:1]] == ([change.asked] if change.asked else [])
    for words in change.told:
        assert words in str(error), str(error)
    assert len(str(error).splitlines()) <= 13
    assert "`kitaru executions resume planted`" in str(error)


@each_change
async def test_nothing_is_run_and_the_old_code_comes_to_its_end(
    workshop: Any, change: Change
) -> None:
    history = await workshop.history_of(change.old)
    new = workshop.write(change.new)
    changed = workshop.module
    await workshop.plant(new, history)
    before = bare(await workshop.recorded())
    with pytest.raises(kitaru.KitaruDivergenceError):
        await workshop.result(new)
    assert changed.RUNS == []
    after = bare(await workshop.recorded())
    assert after[: len(before)] == before
    assert [kind for _, kind, _, _ in after[len(before) :]] == ["execution_diverged"]
    if change.old == change.new:
        return  # what it reads is different each time: no code to put back
    old = workshop.write(change.old)
    workshop.serve(old)
    await executions.resume(workshop.runtime, "planted")
    if "kitaru.wait" in change.old:
        await kitaru.AsyncKitaruClient().executions.input("planted", wait="first", value=None)
    await workshop.result(old)
    if workshop.end is not None:
        assert (await workshop.recorded())[-1].payload == workshop.end
    assert workshop.module.RUNS == []


@each_change
async def test_the_new_code_goes_on_in_a_fork(workshop: Any, change: Change) -> None:
    """What the report says one can do can be done."""
    error = await workshop.diverged(change.old, change.new)
    fork = f"--from {shlex.quote(error.recorded.path)}`"
    assert fork in str(error)
    client = kitaru.AsyncKitaruClient().executions
    forked = await client.replay("planted", from_=error.recorded.path)
    if "kitaru.wait" in change.new:
        name = error.asked[0].path if change.story is Story.RENAMED else "first"
        await client.input(forked.exec_id, wait=name, value=None)
    with contextlib.suppress(kitaru.KitaruUserCodeError):
        await workshop.result(workshop.module.body, forked.exec_id)
    assert (await client.get(forked.exec_id)).status.is_finished


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('a = fetch("a")\nreturn a', 'a = fetch("a")\nsave(a)\nreturn prepare(2)'),
        (
            'a = fetch("a")\nreturn save(a)',
            'a = fetch("a")\nb = save(a)\nfor n in [1]:\n    prepare(n)\nreturn b',
        ),
        (
            "for n in [1, 2]:\n    prepare(n)\nreturn 1",
            "for n in [1, 2, 3]:\n    prepare(n)\nreturn 1",
        ),
        ('return fetch("a")', '# moved\n\n\nurl = "a"\nreturn fetch(url=url)'),
    ],
    ids=["calls after the end", "a loop after the end", "more rounds at the end", "other lines"],
)
async def test_what_comes_after_the_last_record_may_change(
    workshop: Any, old: str, new: str
) -> None:
    history = await workshop.history_of(old)
    flow = workshop.write(new)
    await workshop.plant(flow, history)
    await workshop.result(flow)
    done = {event.path for fact in history if hasattr(event := decode_event(fact), "path")}
    again = [decode_event(fact) for fact in (await workshop.recorded())[len(history) :]]
    assert not done & {event.path for event in again if hasattr(event, "path")}


async def test_a_checkpoint_s_body_may_change(workshop: Any) -> None:
    history = await workshop.history_of('a = fetch("a")\nreturn save(a)')
    flow = workshop.write('a = fetch("a")\nreturn save(a)')
    source = workshop.file.read_text().replace("return url", "return url + 'changed'")
    flow = workshop.write(
        'a = fetch("a")\nreturn save(a)', head=source.partition("    a = fetch")[0]
    )
    await workshop.plant(flow, history[:2])
    assert await workshop.result(flow) == "saved"
    assert workshop.module.RUNS == [("save", "a")]


TOGETHER = {
    "sync": "futures = [fetch.submit(u) for u in {urls}]\nreturn [f.result() for f in futures]",
    "async": "return await asyncio.gather(*[fetch.submit(u) for u in {urls}])",
}
MAPPED = {
    "sync": "return [f.result() for f in fetch.map({urls})]",
    "async": "return await asyncio.gather(*fetch.map({urls}))",
}


@pytest.mark.parametrize("form", [TOGETHER, MAPPED], ids=["submitted", "mapped"])
@pytest.mark.parametrize(
    ("old", "new", "story"),
    [
        (["a", "b"], ["new", "a", "b"], Story.INSERTED),
        (["a", "b"], ["a", "new", "b"], Story.INSERTED),
        (["a", "b", "c"], ["a", "c"], Story.REMOVED),
        (["a", "b"], ["b", "a"], Story.SWAPPED),
        (["a", "b"], ["a", "x"], Story.CHANGED_ARGUMENTS),
        (["a", "b"], ["a"], Story.FEWER_CALLS),
        (["x", "x"], ["y", "x"], Story.CHANGED_ARGUMENTS),
    ],
)
async def test_submitted_calls_tell_their_story_together(
    workshop: Any, colour: str, form: dict[str, str], old: Any, new: Any, story: Story
) -> None:
    error = await workshop.diverged(form[colour].format(urls=old), form[colour].format(urls=new))
    likely = {story}
    if story is Story.REMOVED:
        # One place in the code has made all of them: another order, or one left out.
        likely.add(Story.SWAPPED)
    assert error.story in likely, str(error)
    assert workshop.module.RUNS == []


@pytest.mark.parametrize("colour", ["async"])
@pytest.mark.parametrize(
    ("new", "story"),
    [
        ('await prepare(n)\n    return await fetch(f"{n}")', Story.INSERTED),
        ('return await load(f"{n}")', Story.RENAMED),
        ('return await fetch(f"{n}!")', Story.CHANGED_ARGUMENTS),
        ("return n", Story.REMOVED),
    ],
)
async def test_a_branch_that_runs_beside_others_diverges_alike(
    workshop: Any, new: str, story: Story
) -> None:
    form = (
        "async def branch(n):\n    {branch}\n"
        "return await asyncio.gather(*(branch(n) for n in range(3)))"
    )
    error = await workshop.diverged(
        form.format(branch='return await fetch(f"{n}")'), form.format(branch=new)
    )
    assert error.story == story, str(error)
    assert error.recorded.path.startswith("task[")


@pytest.mark.parametrize(
    ("new", "story"),
    [
        ('fetch("a")\nprepare(2)\nraise ValueError("again")', None),
        ('fetch("a")\nraise ValueError("again")', Story.REMOVED),
        ('fetch("b")\nprepare(1)\nraise ValueError("again")', Story.CHANGED_ARGUMENTS),
        ('save(1)\nfetch("a")\nprepare(1)\nraise ValueError("again")', Story.INSERTED),
    ],
    ids=["changed where only the earlier attempt was", "removed", "changed", "inserted"],
)
async def test_each_flow_attempt_is_held_against_its_own_record(
    workshop: Any, new: str, story: Story | None
) -> None:
    """Calls of an earlier attempt are kept for whoever asks again, and need not be asked for."""
    history = await workshop.history_of(
        'fetch("a")\nprepare(1)\nraise ValueError("again")', retries=1
    )
    failed = next(n for n, fact in enumerate(history) if fact.type == "flow_attempt_failed")
    cut = history[: failed + 1] if story is None else history[:failed]
    flow = workshop.write(new, retries=1)
    await workshop.plant(flow, cut)
    with pytest.raises(kitaru.KitaruError) as raised:
        await workshop.result(flow)
    if story is None:
        assert isinstance(raised.value, kitaru.KitaruUserCodeError)
        assert workshop.module.RUNS == [("prepare", 2)]
    else:
        assert isinstance(raised.value, kitaru.KitaruDivergenceError)
        assert raised.value.story == story, str(raised.value)
        assert workshop.module.RUNS == []


@pytest.mark.parametrize("colour", ["sync"])
@pytest.mark.parametrize(
    "end", ["return b.result()", "return [a.result(), b.result()]", "return 7", "b.wait()"]
)
async def test_a_recorded_call_that_depends_on_a_new_one_is_compared_when_that_has_ended(
    workshop: Any, end: str
) -> None:
    history = await workshop.history_of(
        'a = fetch.submit("a")\nb = load.submit("b")\nreturn [a.result(), b.result()]'
    )
    (loaded,) = [fact for fact in history if b'"name":"load"' in fact.payload]
    recorded = [history[0], replace(loaded, version=2)]
    flow = workshop.write(f'a = fetch.submit("a")\nb = load.submit(a)\n{end}')
    verdict = await workshop.foreseen(flow, recorded)
    assert (verdict.judgement, verdict.version, verdict.path) == (Judgement.UNKNOWN, 1, "load")
    assert "depends on a call that is not" in verdict.summary
    assert workshop.module.RUNS == []
    await workshop.plant(flow, recorded)
    with pytest.raises(kitaru.KitaruDivergenceError) as raised:
        await workshop.result(flow)
    assert raised.value.story == Story.CHANGED_ARGUMENTS
    assert raised.value.recorded.path == "load"
    assert workshop.module.RUNS == [("fetch", "a")]


CATCHING = {
    "except": "try:\n    fetch({url})\nexcept BaseException:\n    pass\nprepare(7)\nreturn save(1)",
    "suppress": (
        "import contextlib\nwith contextlib.suppress(BaseException):\n    fetch({url})\n"
        "kitaru.log(seen=True)\nreturn save(1)"
    ),
    "finally": "try:\n    fetch({url})\nfinally:\n    prepare(7)\n    save(1)",
    "return in finally": "try:\n    fetch({url})\nfinally:\n    return 5",
    "again and again": (
        "for _ in range(50):\n    try:\n        fetch({url})\n        break\n"
        "    except BaseException:\n        pass\nreturn 5"
    ),
}


@pytest.mark.parametrize("form", CATCHING.values(), ids=list(CATCHING))
async def test_a_body_that_catches_everything_goes_nowhere(workshop: Any, form: str) -> None:
    history = await workshop.history_of(form.format(url='"a"'))
    history = history[: 1 + [fact.type for fact in history].index("checkpoint_completed")]
    flow = workshop.write(form.format(url='"b"'))
    await workshop.plant(flow, history)
    before = bare(await workshop.recorded())
    with pytest.raises(kitaru.KitaruDivergenceError):
        await workshop.result(flow)
    after = bare(await workshop.recorded())
    assert after[:-1] == before
    assert after[-1][1] == "execution_diverged"
    assert workshop.module.RUNS == []


POLICY = """
from kitaru import checkpoint, flow

RUNS = []

@checkpoint(on_changed_arguments="POLICY")
DEF fetch(url):
    RUNS.append(("fetch", url))
    return url

@checkpoint
DEF save(data):
    RUNS.append(("save", data))
    return data

@flow(cache=False)
DEF body():
"""


@pytest.mark.parametrize("policy", ["warn", "ignore"])
@pytest.mark.parametrize(
    "form",
    [
        "a = fetch({url})\nreturn save(a)",
        "futures = [fetch.submit({url})]\nreturn save(futures[0])",
    ],
    ids=["direct", "submitted"],
)
async def test_a_checkpoint_may_keep_its_outcome_whatever_its_arguments(
    workshop: Any, policy: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    head = POLICY.replace("POLICY", policy)
    history = await workshop.history_of(form.format(url='"a"'), head=head)
    flow = workshop.write(form.format(url='"b"'), head=head)
    await workshop.plant(flow, history[:2])
    capsys.readouterr()
    assert await workshop.result(flow) == "a"
    assert workshop.module.RUNS == [("save", "a")]
    recorded = await workshop.recorded()
    noted = [e for e in map(decode_event, recorded) if isinstance(e, ArgumentsChanged)]
    warned = policy == "warn"
    assert [(event.path, event.differences) for event in noted] == [("fetch", ("url",))] * warned
    assert capsys.readouterr().err.count("event=arguments_changed") == warned
    shown = [entry.text for entry in kitaru_timeline(recorded) if entry.kind == "arguments_changed"]
    assert shown == ["called with other arguments (url): the recorded outcome was kept"] * warned
    # A replay with yet other arguments says nothing more.
    flow = workshop.write(form.format(url='"c"'), head=head)
    await workshop.plant(flow, recorded[:-1], "again")
    assert await workshop.result(flow, "again") == "a"
    again = await workshop.recorded("again")
    assert [fact.type for fact in again].count("arguments_changed") == warned
    assert "arguments_changed" not in capsys.readouterr().err
    execution = await kitaru.AsyncKitaruClient().executions.get("again")
    assert execution.unknown == ()


async def test_a_call_of_another_name_diverges_whatever_the_policy(workshop: Any) -> None:
    head = POLICY.replace("POLICY", "ignore")
    history = await workshop.history_of('a = fetch("a", id="x")\nreturn a', head=head)
    flow = workshop.write('a = save("a", id="x")\nreturn a', head=head)
    await workshop.plant(flow, history)
    with pytest.raises(kitaru.KitaruDivergenceError) as raised:
        await workshop.result(flow)
    assert raised.value.story == Story.CHANGED_KIND


async def test_the_outcome_of_an_earlier_flow_attempt_is_kept_too(workshop: Any) -> None:
    head = POLICY.replace("POLICY", "ignore").replace("@flow(", "@flow(retries=1, ")
    body = "import time\na = fetch(time.time_ns())\nraise ValueError(a)"
    await workshop.history_of(body, head=head)
    assert len(workshop.module.RUNS) == 1


@pytest.mark.parametrize("bad", ["", "stop", None, True, ["warn"]])
def test_a_policy_that_there_is_not_is_refused(bad: Any) -> None:
    with pytest.raises(kitaru.KitaruUsageError, match="on_changed_arguments"):
        kitaru.checkpoint(on_changed_arguments=bad)


async def test_every_client_is_given_the_facts(workshop: Any) -> None:
    error = await workshop.diverged(
        'a = fetch("a")\nreturn save({"from": a})', 'a = fetch("a")\nreturn save({"to": a})'
    )
    assert isinstance(error.recorded, kitaru.DivergedCall)
    assert error.recorded == kitaru.DivergedCall(
        path="save",
        name="save",
        site="changing.py:31",
        version=3,
        arguments={"data": {"from": "a"}},
        arguments_digest=error.recorded.arguments_digest,
    )
    assert error.asked[0].arguments == {"data": {"to": "a"}}
    assert error.differences == (
        kitaru.ArgumentDifference(path="data.from", recorded="a"),
        kitaru.ArgumentDifference(path="data.to", now="a"),
    )
    client = kitaru.AsyncKitaruClient().executions
    with pytest.raises(kitaru.KitaruDivergenceError) as again:
        await (await client.handle("planted")).wait()
    assert again.value.divergence == error.divergence
    execution = await client.get("planted")
    assert execution.divergence == error.divergence
    await client.cancel("planted")
    assert (await client.get("planted")).divergence is None


async def test_arguments_that_are_not_to_be_kept_are_not_in_the_report(workshop: Any) -> None:
    head = POLICY.replace('on_changed_arguments="POLICY"', 'record_inputs="never"')
    history = await workshop.history_of('return fetch("secret-one")', head=head)
    flow = workshop.write('return fetch("secret-two")', head=head)
    await workshop.plant(flow, history)
    with pytest.raises(kitaru.KitaruDivergenceError) as raised:
        await workshop.result(flow)
    assert raised.value.story == Story.CHANGED_ARGUMENTS
    assert "only their digest tells that they differ" in str(raised.value)
    # The call's result, and the source of the code, hold it; the divergence does not.
    assert b"secret" not in (await workshop.recorded())[-1].payload


async def test_a_fork_diverges_from_what_it_has_taken(workshop: Any) -> None:
    """What a fork was given is recorded, and its code may not ask for something else afterwards."""
    flow = workshop.write('a = fetch("a")\nprepare(1)\nreturn save(a)')
    handle = flow.aio.run()
    await handle.wait()
    fork = await kitaru.AsyncKitaruClient().executions.replay(handle.exec_id, from_="save")
    await workshop.result(flow, fork.exec_id)
    history = (await workshop.recorded(fork.exec_id))[:-1]
    changed = workshop.write('a = fetch("b")\nprepare(1)\nreturn save(a)')
    await workshop.plant(changed, history)
    with pytest.raises(kitaru.KitaruDivergenceError) as raised:
        await workshop.result(changed)
    assert raised.value.story == Story.CHANGED_ARGUMENTS, str(raised.value)
    assert "url: 'a' -> 'b'" in str(raised.value)
    removed = workshop.write('a = fetch("a")\nreturn save(a)')
    await workshop.plant(removed, history, "removed")
    with pytest.raises(kitaru.KitaruDivergenceError) as raised:
        await workshop.result(removed, "removed")
    assert raised.value.recorded.path == "prepare"
    assert workshop.module.RUNS == []


SCRIPT = """
import os, sys, time
from kitaru import checkpoint, flow

@checkpoint
DEF step(n):
    with open("effects", "a") as file:
        file.write(f"{n}\\n")
    return n

@checkpoint
DEF hold():
    open("held", "w").close()
    while not os.path.exists("released"):
        time.sleep(0.01)

@flow
DEF work():
    first = AWAIT step(1)
    second = AWAIT step(2)
    AWAIT hold()
    return first + second + AWAIT step(3)

if __name__ == "__main__":
    work.SYNCrun().wait()
"""


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "this never became true"
        time.sleep(0.02)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("goes_on", ["resume", "worker"])
def test_a_killed_script_is_changed_diverges_is_restored_and_completes(
    tmp_path: Path, journal_url: str, colour: str, goes_on: str
) -> None:
    environment = {
        **os.environ,
        "KITARU_JOURNAL": journal_url,
        "KITARU_LEASE_SECONDS": "1",
        "KITARU_LOG_LEVEL": "off",
    }
    asynchronous = colour == "async"
    text = SCRIPT.replace("DEF ", "async def " if asynchronous else "def ")
    text = text.replace("AWAIT ", "await " if asynchronous else "")
    text = text.replace("SYNC", "sync." if asynchronous else "")
    file = tmp_path / "script.py"
    file.write_text(text, encoding="utf-8")

    def kitaru_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "kitaru", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def shown() -> dict[str, Any]:
        (listed,) = json.loads(kitaru_command("executions", "list", "-o", "json").stdout)["items"]
        got = kitaru_command("executions", "get", listed["exec_id"], "-o", "json")
        item: dict[str, Any] = json.loads(got.stdout)["item"]
        return item

    with subprocess.Popen([sys.executable, "script.py"], env=environment, cwd=tmp_path) as running:
        wait_until((tmp_path / "held").exists)
        running.kill()
    exec_id = shown()["exec_id"]
    (tmp_path / "released").touch()
    changed = text.replace("first = ", "AWAIT step(7)\n    first = ").replace(
        "AWAIT ", "await " if asynchronous else ""
    )
    assert changed != text
    file.write_text(changed, encoding="utf-8")
    if goes_on == "worker":
        with subprocess.Popen(
            [sys.executable, "-m", "kitaru", "worker", "script.py"], env=environment, cwd=tmp_path
        ) as worker:
            wait_until(lambda: shown()["status"] == "diverged")
            worker.terminate()
    else:
        wait_until(
            lambda: "is being run" not in kitaru_command("executions", "resume", exec_id).stderr
        )
    got = shown()
    assert got["status"] == "diverged"
    assert got["divergence"]["story"] == "inserted"
    assert got["divergence"]["asked"][0]["arguments"] == {"n": 7}
    told = kitaru_command("executions", "get", exec_id)
    assert "a call of `step` was inserted at script.py:" in told.stdout
    again = kitaru_command("executions", "resume", exec_id, "-o", "json")
    assert again.returncode == 3
    failure = json.loads(again.stderr.splitlines()[-1])["error"]
    assert failure["type"] == "KitaruDivergenceError"
    assert failure["exec_id"] == exec_id
    assert failure["status"] == "diverged"
    assert failure["divergence"]["recorded"]["path"] == "step"
    assert (tmp_path / "effects").read_text() == "1\n2\n"
    file.write_text(text, encoding="utf-8")
    ended = kitaru_command("executions", "resume", exec_id)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [exec_id, "6"]
    assert (tmp_path / "effects").read_text() == "1\n2\n3\n"
    assert kitaru_command("journal", "verify").returncode == 0
