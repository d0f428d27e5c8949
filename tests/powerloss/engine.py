"""Runs the flows of the crash tests and writes down what they are told, for a recording.

`python -m tests.powerloss.engine FOLDER SEED`
"""

import os
import sys
import tempfile

from tests.crash import programs
from tests.powerloss.recording import ACKNOWLEDGEMENTS


def main(folder: str, _seed: str) -> None:
    # What it says goes into the file that stands for somebody who listens.
    os.close(1)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    assert os.open(os.path.join(folder, ACKNOWLEDGEMENTS), flags, 0o600) == 1
    with tempfile.TemporaryDirectory() as other:
        programs.run(
            programs.Orders(
                journal=os.path.join(folder, "journal.db"),
                effects=os.path.join(other, "effects"),
                steps=4,
                log_is_due_bytes=60_000,
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
