"""``python -m tests.fuzz.covered TARGET SECONDS``: looks for inputs that reach new code.

It is started by ``python -m tests.fuzz --coverage``, and needs atheris (``uv pip install
atheris``), which has builds for some versions of Python and some machines only. What reaches new
code is kept in ``build/fuzz/TARGET``, and gone on from the next time.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # atheris must see it being loaded
    from tests.fuzz.targets import Target

ROOT = Path(__file__).parents[2]


def main(name: str, seconds: str) -> None:
    """Does not return: atheris ends the process, with 0 when no input has broken it."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["kitaru", "journal"]):
        targets = importlib.import_module("tests.fuzz.targets")
    corpus = ROOT / "build" / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(targets.seeds(name)):
        (corpus / f"seed-{number}").write_bytes(data)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-rss_limit_mb=512",
        "-timeout=60",
        "-print_final_stats=1",
        f"-artifact_prefix={os.getcwd()}/fuzz-{name}-",
    ]
    target: Target = targets.TARGETS[name]

    def given(data: bytes) -> None:
        target(data)  # what atheris is returned means something to it

    atheris.Setup(["fuzz", *options, str(corpus)], given)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
