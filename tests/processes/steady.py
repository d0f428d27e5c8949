"""A script whose disk fails for a while: it says what it is told, and goes on by itself."""

import os
import time
from typing import Any

import kitaru
from kitaru import checkpoint, flow

STEPS = int(os.environ["KITARU_TEST_STEPS"])


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@checkpoint(cache=False)
def step(number: int) -> str:
    time.sleep(0.01)
    return f"{number} " + "x" * 3000


@flow
def steps(count: int) -> int:
    for number in range(count):
        step.with_options(id=f"step-{number}")(number)
        tell("ack", number)
    return count


@flow
def short() -> int:
    return 1


def started(body: Any, *arguments: Any) -> Any:
    """Starts a flow, however often the disk refuses it."""
    while True:
        try:
            return body.run(*arguments)
        except kitaru.KitaruBackendError as error:
            tell("refused", type(error).__name__, str(error))
            time.sleep(0.1)


if __name__ == "__main__":
    handle = started(steps, STEPS)
    tell("started", handle.exec_id)
    while True:
        try:
            tell("result", handle.wait())
            break
        except kitaru.KitaruBackendError as error:
            tell("down", str(error))
            # In the middle of it nothing else can be started either.
            tell("result", started(short).wait())
