"""The worker's threads: made when needed, and done without where there is none to be had."""

import threading

import pytest

from kitaru.engine.threads import DaemonThreads


def _refused(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_no_thread_can_be_had_for_is_done_by_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = DaemonThreads(4, "test")
    free, begun, done = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        free.wait(60)

    threads.submit(hold)
    assert begun.wait(60)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refused)
        threads.submit(done.set)
    assert not done.is_set()
    free.set()
    assert done.wait(60)
    threads.close()


def test_where_there_is_no_thread_at_all_it_is_told_and_not_done_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads = DaemonThreads(1, "test")
    done: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refused)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threads.submit(lambda: done.append("refused"))
    # The one that is allowed is not taken for one that runs.
    later = threading.Event()
    threads.submit(later.set)
    assert later.wait(60)
    assert done == []
    threads.close()
