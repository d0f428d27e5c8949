"""Asks the person at the terminal what a flow waits for, while `handle.wait()` blocks there.

Off where nobody can answer: unless the process owns a terminal, in CI, on other threads than the
main one, and with ``KITARU_PROMPT=off``.
"""

import concurrent.futures
import contextlib
import os
import shlex
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from kitaru.bootstrap import Runtime, blocking
from kitaru.engine.executions import stream_of
from kitaru.engine.upcasts import decode_event
from kitaru.errors import KitaruStateError, KitaruUsageError, KitaruWaitValidationError
from kitaru.operations import waits
from kitaru.projections.views import PendingWait
from kitaru.projections.waits import WaitFold

T = TypeVar("T")
LOOK_SECONDS = 0.1
_OFF = ("0", "false", "no", "off")
_ON = ("", "1", "true", "yes", "on", "auto")
_YES = ("y", "yes", "true")
_NO = ("n", "no", "false")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_wanted() -> bool:
    """Whether somebody sits in front of this thread. Raises KitaruUsageError for a bad setting."""
    word = os.environ.get("KITARU_PROMPT", "").strip().lower()
    if word not in _OFF + _ON:
        raise KitaruUsageError(f"KITARU_PROMPT={word!r}: on or off is accepted.")
    if word in _OFF or os.environ.get("CI") or os.name != "posix":
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    try:
        terminal = sys.stdin.fileno()
        if not (os.isatty(terminal) and os.isatty(sys.stderr.fileno())):
            return False
        # A process in the background would be stopped by reading.
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except (AttributeError, OSError, ValueError):
        return False


def result_of(runtime: Runtime, exec_id: str, waiting: "concurrent.futures.Future[T]") -> T:
    """What the future brings; meanwhile the execution's open waits are put to the person."""
    asker = _Asker(runtime, exec_id, waiting)
    try:
        while not waiting.done():
            asker.ask_next()
            concurrent.futures.wait([waiting], LOOK_SECONDS)
    except BaseException:
        waiting.cancel()
        raise
    return waiting.result()


class _Asker:
    def __init__(
        self, runtime: Runtime, exec_id: str, waiting: "concurrent.futures.Future[Any]"
    ) -> None:
        self._runtime = runtime
        self._exec_id = exec_id
        self._waiting = waiting
        self._terminal = sys.stdin.fileno()
        self._fold = WaitFold()
        self._version = 0
        self._left: set[str] = set()
        """The waits that the person leaves to others."""

    def ask_next(self) -> None:
        """Asks for the first open wait that was not left, until it has an answer."""
        for pending in self._open():
            if pending.wait_id not in self._left:
                self._ask(pending)
                return

    def _open(self) -> tuple[PendingWait, ...]:
        head = self._runtime.head_blocking(stream_of(self._exec_id))
        if head is not None and head.version > self._version:
            journal = self._runtime.journal
            stream = stream_of(self._exec_id)
            after = self._version
            for fact in blocking(self._runtime, lambda: journal.read_stream(stream, after=after)):
                at = _EPOCH + timedelta(microseconds=fact.recorded_at)
                self._fold.add(decode_event(fact), at)
                self._version = fact.version
        return self._fold.waits()

    def _is_open(self, pending: PendingWait) -> bool:
        return any(other.wait_id == pending.wait_id for other in self._open())

    def _ask(self, pending: PendingWait) -> None:
        # What was typed before the question is no answer to it.
        self._forget_typed()
        _say(f"\n{_shown(pending.question or pending.wait_id)}")
        if pending.rejected is not None:
            _say(f"The last answer was not taken: {_shown(pending.rejected)}")
        for name, value in pending.metadata.items():
            _say(f"  {_shown(name)}: {_shown(str(value))}")
        while True:
            line = self._line(pending)
            if line is None:
                return
            try:
                self._answer(pending, line)
            except (KitaruWaitValidationError, _Unreadable) as problem:
                _say(_shown(str(problem)))
            except KitaruStateError as elsewhere:
                _say(_shown(str(elsewhere)))
                return
            else:
                # Given: not asked again before the runner has taken it or refused it.
                return

    def _line(self, pending: PendingWait) -> str | None:
        """What the person types; None when there is nothing left to ask."""
        import select

        _say(_invitation(pending), end=" ")
        while True:
            readable, _, _ = select.select([self._terminal], [], [], LOOK_SECONDS)
            if readable:
                typed = os.read(self._terminal, 65536)
                if typed.endswith(b"\n"):
                    return typed.decode("utf-8", "replace").strip()
                # Ctrl-D: for the moment nobody here answers.
                self._left.add(pending.wait_id)
                self._tell_left(pending)
                return None
            if self._waiting.done() or not self._is_open(pending):
                self._forget_typed()
                _say("\n(no answer is needed any more)")
                return None

    def _answer(self, pending: PendingWait, line: str) -> None:
        runtime, exec_id, wait = self._runtime, self._exec_id, pending.wait_id
        if pending.schema is None:
            goes_on = not line or line.lower() in _YES
            if not goes_on and line.lower() not in _NO:
                raise _Unreadable("Type y to go on, n to abort.")
            if goes_on:
                blocking(runtime, lambda: waits.give_input(runtime, exec_id, wait, None))
            else:
                reason = "by the person at the terminal"
                blocking(runtime, lambda: waits.abort_wait(runtime, exec_id, wait, reason))
            return
        value = value_of(line, pending.schema)
        blocking(runtime, lambda: waits.give_input(runtime, exec_id, wait, value))

    def _tell_left(self, pending: PendingWait) -> None:
        _say(
            "\nLeft open. Answer it with: kitaru executions input "
            f"{self._exec_id} --wait {shlex.quote(_shown(pending.wait_id))} --value JSON"
        )

    def _forget_typed(self) -> None:
        import termios

        with contextlib.suppress(termios.error):
            termios.tcflush(self._terminal, termios.TCIFLUSH)


class _Unreadable(Exception):
    """What was typed is no value of any kind."""


def value_of(line: str, schema: dict[str, Any]) -> Any:
    """What a line that a person has typed stands for, by the schema of what is asked.

    Raises an error that says what is needed instead.
    """
    kinds = _kinds(schema)
    if line in _choices(schema):
        return line
    if kinds == {"string"}:
        return line
    if "boolean" in kinds and line.lower() in _YES + _NO:
        return line.lower() in _YES
    if "null" in kinds and not line:
        return None
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        if "string" in kinds:
            return line
    if choices := _choices(schema):
        raise _Unreadable(f"One of these is needed: {', '.join(map(str, choices))}.")
    if kinds and kinds <= {"integer", "number", "null"}:
        raise _Unreadable("A number is needed.")
    if kinds == {"boolean"}:
        raise _Unreadable("Type y or n.")
    raise _Unreadable('JSON is needed, such as {"name": "value"} or ["a", "b"].')


def _alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What an answer may be; definitions are looked up."""
    found, unseen = [], [schema]
    known = dict(schema.get("$defs", {}))
    for part in unseen:
        unseen += part.get("anyOf", ())
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            # Each once: a definition may be made of itself.
            unseen += [known.pop(name)] if name in known else []
        else:
            found.append(part)
    return found


def _kinds(schema: dict[str, Any]) -> set[str]:
    kinds: set[str] = set()
    for part in _alternatives(schema):
        kind = part.get("type", ())
        kinds |= {kind} if isinstance(kind, str) else set(kind)
    return kinds


def _choices(schema: dict[str, Any]) -> list[Any]:
    return [choice for part in _alternatives(schema) for choice in part.get("enum", ())]


def _invitation(pending: PendingWait) -> str:
    schema = pending.schema
    if schema is None:
        return "Go on? [Y/n]"
    kinds = _kinds(schema)
    if choices := _choices(schema):
        return f"[{'/'.join(_shown(str(each)) for each in choices)}]"
    if kinds == {"boolean"}:
        return "[y/n]"
    if kinds and not kinds & {"object", "array"}:
        return f"({' or '.join(sorted(kinds))})"
    fields = [name for part in _alternatives(schema) for name in part.get("properties", ())]
    return f"(JSON{': ' if fields else ''}{_shown(', '.join(fields))})"


def _shown(text: str) -> str:
    """Without what would move the cursor."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _say(text: str, end: str = "\n") -> None:
    sys.stderr.write(text + end)
    sys.stderr.flush()
