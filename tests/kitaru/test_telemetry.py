"""Log events: quiet by default, one line each, never in the way."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from kitaru.errors import KitaruUsageError
from kitaru.telemetry import LEVELS, LogEvent, check_log_level, reference_page, report

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "log-events.md"


@pytest.fixture(autouse=True)
def default_level(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("KITARU_LOG_LEVEL", raising=False)
    yield
    structlog.reset_defaults()


def test_the_reference_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_page()


@pytest.mark.parametrize("event", LogEvent)
def test_every_event_has_a_name_a_level_and_a_meaning(event: LogEvent) -> None:
    assert event == event.name.lower()
    assert event.level in LEVELS
    assert event.meaning.endswith(".")
    assert event.facts


def test_a_warning_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    report(LogEvent.LEASE_LOST, exec_id="e-1", epoch=3)
    captured = capsys.readouterr()
    assert captured.out == ""
    timestamp, rest = captured.err.split(" ", 1)
    assert timestamp.startswith("timestamp=2")
    assert rest == "level=warning event=lease_lost exec_id=e-1 epoch=3\n"


def test_less_than_a_warning_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    report(LogEvent.RUNTIME_OPENED, journal="memory://")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", 3), ("INFO", 2), ("warning", 1), ("error", 0), ("off", 0), ("nonsense", 1)],
)
def test_the_level_is_set_by_the_environment(
    level: str,
    written: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KITARU_LOG_LEVEL", level)
    report(LogEvent.WORKER_IDLE, flows=["a"])
    report(LogEvent.RUNTIME_OPENED, journal="memory://")
    report(LogEvent.LEASE_LOST, exec_id="e-1", epoch=3)
    assert len(capsys.readouterr().err.splitlines()) == written


def test_a_level_that_does_not_exist_is_refused_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_log_level()
    monkeypatch.setenv("KITARU_LOG_LEVEL", "loud")
    with pytest.raises(KitaruUsageError, match="KITARU_LOG_LEVEL: 'loud' is not accepted"):
        check_log_level()


def test_an_application_that_configures_structlog_gets_the_events() -> None:
    structlog.configure(processors=[])
    with capture_logs() as logs:
        report(LogEvent.LEASE_LOST, exec_id="e-1", epoch=3)
    assert logs == [{"event": "lease_lost", "log_level": "warning", "exec_id": "e-1", "epoch": 3}]


def test_a_broken_standard_error_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    report(LogEvent.LEASE_LOST, exec_id="e-1", epoch=3)


def test_any_value_can_be_a_fact(capsys: pytest.CaptureFixture[str]) -> None:
    report(LogEvent.LEASE_RENEWAL_FAILED, executions=2, error=OSError('a "b"\nc = d'))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_structlog_is_imported_only_when_something_is_written() -> None:
    program = (
        "import sys; from kitaru.telemetry import LogEvent, report; "
        "report(LogEvent.RUNTIME_OPENED, journal='memory://'); "
        "print(sorted({'structlog', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
