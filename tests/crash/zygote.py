"""Forks the processes that are to be killed, so that each need not import the engine anew.

It reads orders, one line of JSON each, and runs each in a child. Only the main thread exists in it,
and neither a journal nor a loop is open.
"""

import importlib
import os
import sys

import msgspec

from tests.crash import programs

USED_LATER = (
    "anyio._backends._asyncio",
    "anyio.from_thread",
    "jsonschema",
    "journal.backends.sqlite.journal",
    "kitaru.sdk.wait",
    "pprint",
    "tomllib",
    "unicodedata",
    "zipfile",
)
"""What every child would import for itself, which takes longer than its whole life."""


def main() -> None:
    for module in USED_LATER:
        importlib.import_module(module)
    for line in sys.stdin.buffer:
        orders = msgspec.json.decode(line, type=programs.Orders)
        child = os.fork()
        if child == 0:
            programs.tell("born", os.getpid())
            programs.run(orders)
            return  # the interpreter's ordinary end, with all that hangs on it
        _, status = os.waitpid(child, 0)
        programs.tell("died", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
