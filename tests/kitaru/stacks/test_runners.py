"""A runner is told all it needs, secrets are on no command line, and it finds nobody's files."""

import os
import sys
from pathlib import Path

import msgspec
import pytest

from kitaru.errors import KitaruBackendError
from kitaru.stacks.runners import RunnerProcess, RunnerSpec, spec_from, start_runner

TELLS = """
import os, sys, json
print(json.dumps([sys.argv[1:], os.getcwd(), sys.path, os.environ.get("SECRET"),
    os.environ.get("PYTHONPATH"), os.environ["KITARU_JOURNAL"], os.getsid(0) == os.getpid()]))
"""


def spec(tmp_path: Path, **changes: object) -> RunnerSpec:
    known = RunnerSpec(journal="sqlite:////j.db", route="deployment:ab", bundle="ab")
    return msgspec.structs.replace(known, log_file=str(tmp_path / "logs" / "a.log"), **changes)


def test_a_spec_survives_the_command_line_but_for_its_environment(tmp_path: Path) -> None:
    told = spec(tmp_path, environment={"SECRET": "s3cret"}, exec_id="e", idle_seconds=3.0)
    assert "s3cret" not in " ".join(told.command)
    assert spec_from(told.command[-1]) == msgspec.structs.replace(told, environment={})


def test_what_is_no_spec_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        spec_from('{"journal": 3}')


def test_the_starters_folder_and_python_path_are_not_the_runners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    script = tmp_path / "tells.py"
    script.write_text(TELLS)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -P {script} "$@"\n')
    python.chmod(0o700)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    runner = start_runner(spec(tmp_path, python=str(python), environment={"SECRET": "s3cret"}))
    assert runner.wait(30) == 0
    told = msgspec.json.decode((tmp_path / "logs" / "a.log").read_bytes())
    arguments, folder, path, secret, python_path, journal, leads_session = told
    assert arguments[:4] == ["-P", "-m", "kitaru", "runner"]
    assert (secret, python_path, journal) == ("s3cret", None, "sqlite:////j.db")
    assert leads_session is True
    assert os.path.realpath(folder) != os.path.realpath(tmp_path)
    assert str(tmp_path) not in path


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KitaruBackendError, match="nowhere"):
        start_runner(spec(tmp_path, python="/nowhere/python"))


def test_a_runner_that_has_ended_is_reaped(tmp_path: Path) -> None:
    runner: RunnerProcess = start_runner(spec(tmp_path, python="/bin/false"))
    assert runner.wait(30) == 1
    assert runner.poll() == 1
