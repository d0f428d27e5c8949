"""Compiles the library that is preloaded into processes under test; see `shim.c` beside it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


def why_not() -> str:
    """Why this machine cannot preload it; empty when it can."""
    if not sys.platform.startswith("linux"):
        return "LD_PRELOAD as it is used here is Linux's"
    if shutil.which("cc") is None:
        return "there is no C compiler (cc)"
    return ""


def compiled() -> str:
    """The library, made anew for this process."""
    folder = tempfile.mkdtemp(prefix="kitaru-shim-")
    library = os.path.join(folder, "shim.so")
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", library, str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library
