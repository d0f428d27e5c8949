"""Wheels that are made here, so that no package index is needed, and an uv that is counted."""

import functools
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Wheel = Callable[..., Path]


def make_wheel(
    folder: Path, name: str, code: str, *, version: str = "1.0", requires: str = ""
) -> Path:
    """Makes the wheel of a package of one module."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": tags,
    }
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(file, "w") as opened:
        for path, text in files.items():
            opened.writestr(path, text)
    return file


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    """Makes the wheel of a package of one module."""
    return functools.partial(make_wheel, tmp_path)


@pytest.fixture
def uv_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What uv was asked to do: the real one, behind a script that writes it down first."""
    real = shutil.which("uv")
    if real is None:
        pytest.skip("uv is not installed")
    log = tmp_path / "uv.log"
    log.touch()
    script = tmp_path / "bin" / "uv"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$1" >> "{log}"\nexec "{real}" "$@"\n', encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return lambda: log.read_text(encoding="utf-8").split()
