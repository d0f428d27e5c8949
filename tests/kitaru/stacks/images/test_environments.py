"""Environments for runners: they have what is asked for, are built once, and never by half."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kitaru.errors import KitaruImageError, KitaruStackIntegrationDependencyError
from kitaru.image import NO_IMAGE, ImageSettings
from kitaru.stacks.images.environments import digest_of, python_for, with_frozen_packages
from kitaru.stacks.images.uv import uv_command

Wheel = Callable[..., Path]
Calls = Callable[[], list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where this test's environments are."""
    return tmp_path / "environments"


def said_by(python: str, program: str) -> str:
    """What a program prints that knows nothing but that interpreter."""
    done = subprocess.run(
        [python, "-I", "-c", program], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_requirements_it_is_this_very_python(folder: Path) -> None:
    for image in (NO_IMAGE, ImageSettings(environment={"A": "b"})):
        assert python_for(image, folder) == sys.executable
    assert not folder.exists()


def test_a_runner_has_what_is_asked_for_and_kitaru_and_nothing_of_the_callers(
    folder: Path, wheel: Wheel, uv_calls: Calls
) -> None:
    image = ImageSettings(requirements=[str(wheel("kitaru_tiny", "answer = 42\n"))])
    python = python_for(image, folder)
    program = "import kitaru_tiny, kitaru.bootstrap, kitaru.surfaces.cli.main, journal, sys; "
    program += "print(kitaru_tiny.answer, kitaru.__file__, sys.version_info[:2])"
    answer, place, *version = said_by(python, program).split(maxsplit=2)
    assert answer == "42"
    assert Path(place).is_relative_to(folder)
    assert version == [str(sys.version_info[:2])]
    absent = "import importlib.util as i; print(i.find_spec('pytest'), i.find_spec('hypothesis'))"
    assert said_by(python, absent) == "None None"
    with pytest.raises(ModuleNotFoundError):
        __import__("kitaru_tiny")
    assert uv_calls() == ["venv", "pip", "pip"]
    assert python_for(image, folder) == python
    assert uv_calls() == ["venv", "pip", "pip"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [Path(python).parents[1].name, f"{Path(python).parents[1].name}.lock"]
    )


def test_an_empty_list_is_an_environment_with_kitaru_alone(folder: Path, uv_calls: Calls) -> None:
    python = python_for(ImageSettings(requirements=[]), folder)
    assert python != sys.executable
    assert said_by(python, "import kitaru.bootstrap; print(1)") == "1"
    assert uv_calls() == ["venv"]


def test_a_file_url_is_a_requirement_too_and_a_changed_file_another_environment(
    folder: Path, wheel: Wheel, uv_calls: Calls
) -> None:
    file = wheel("kitaru_tiny", "answer = 1\n")
    image = ImageSettings(requirements=[f"kitaru-tiny @ {file.as_uri()}"])
    first = python_for(image, folder)
    assert said_by(first, "import kitaru_tiny; print(kitaru_tiny.answer)") == "1"
    wheel("kitaru_tiny", "answer = 2\n")
    second = python_for(image, folder)
    assert first != second
    assert said_by(second, "import kitaru_tiny; print(kitaru_tiny.answer)") == "2"


def test_builders_that_come_together_build_once(
    folder: Path, wheel: Wheel, uv_calls: Calls
) -> None:
    requirements = [str(wheel("kitaru_tiny", "answer = 42\n"))]
    program = textwrap.dedent(f"""
        from pathlib import Path
        from kitaru.image import ImageSettings
        from kitaru.stacks.images.environments import python_for
        print(python_for(ImageSettings(requirements={requirements!r}), Path({str(folder)!r})))
    """)
    children = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                python_for(ImageSettings(requirements=requirements), folder)
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found += [child.communicate()[0].strip() for child in children]
    assert len(found) == 4
    assert len(set(found)) == 1
    assert uv_calls() == ["venv", "pip", "pip"]


def test_what_a_killed_builder_leaves_disturbs_nobody(
    folder: Path, tmp_path: Path, wheel: Wheel, uv_calls: Calls
) -> None:
    image = ImageSettings(requirements=[str(wheel("kitaru_tiny", "answer = 42\n"))])
    hanging = tmp_path / "hanging"
    hanging.mkdir()
    script = hanging / "uv"
    script.write_text('#!/bin/sh\nmkdir -p "$6" 2>/dev/null\ntouch "$PWD/begun"\nexec sleep 600\n')
    script.chmod(0o755)
    program = textwrap.dedent(f"""
        from pathlib import Path
        from kitaru.image import ImageSettings
        from kitaru.stacks.images.environments import python_for
        python_for(ImageSettings(requirements={list(image.requirements or ())!r}),
            Path({str(folder)!r}))
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PATH": f"{hanging}{os.pathsep}{os.environ['PATH']}"},
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not list(folder.glob(".*/begun")):
        assert child.poll() is None
        assert time.monotonic() < end, "it does not begin"
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert said_by(python_for(image, folder), "import kitaru_tiny; print(1)") == "1"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("name", ["kitaru", "journal"])
def test_what_replaces_kitaru_itself_is_refused(
    name: str, folder: Path, wheel: Wheel, uv_calls: Calls
) -> None:
    other = wheel(f"{name}", "x = 1\n", version="99.0")
    with zipfile.ZipFile(other, "a") as opened:
        opened.writestr(f"{name}/__init__.py", "x = 1\n")
    with pytest.raises(KitaruImageError, match=f"replaces the package '{name}'"):
        python_for(ImageSettings(requirements=[str(other)]), folder)
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_whoever_lists_kitaru_gets_the_starters(folder: Path, uv_calls: Calls) -> None:
    python = python_for(ImageSettings(requirements=["kitaru"]), folder)
    assert said_by(python, "import kitaru.bootstrap; print(1)") == "1"


def test_a_build_that_fails_says_what_uv_said_and_leaves_nothing(
    folder: Path, tmp_path: Path, uv_calls: Calls
) -> None:
    broken = tmp_path / "broken-1.0-py3-none-any.whl"
    broken.write_bytes(b"this is no wheel")
    with pytest.raises(KitaruImageError, match=r"Installing image\.requirements failed") as caught:
        python_for(ImageSettings(requirements=[str(broken)]), folder)
    assert "broken" in str(caught.value)
    assert "broken" in caught.value.output
    assert [path.suffix for path in folder.iterdir()] == [".lock"]


def test_a_file_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent-1.0-py3-none-any.whl"
    for requirement in (str(absent), f"absent @ {absent.as_uri()}"):
        with pytest.raises(KitaruImageError, match=r"absent-1\.0.*cannot be read"):
            python_for(ImageSettings(requirements=[requirement]), folder)


def test_what_does_not_fit_kitaru_is_refused(folder: Path, wheel: Wheel, uv_calls: Calls) -> None:
    old = wheel("msgspec", "x = 1\n", version="0.1")
    with pytest.raises(KitaruImageError, match="fit Kitaru, failed") as caught:
        python_for(ImageSettings(requirements=[str(old)]), folder)
    assert "msgspec" in caught.value.output


def test_without_uv_the_error_says_how_to_get_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("kitaru.stacks.images.uv._is_module", lambda name: False)
    with pytest.raises(KitaruStackIntegrationDependencyError, match="pip install uv"):
        python_for(ImageSettings(requirements=[]), folder)
    assert not folder.exists()
    monkeypatch.setattr("kitaru.stacks.images.uv._is_module", lambda name: name == "uv")
    assert uv_command() == [sys.executable, "-m", "uv"]


def test_an_environment_whose_python_was_removed_is_made_anew(
    folder: Path, uv_calls: Calls
) -> None:
    image = ImageSettings(requirements=[])
    python = Path(python_for(image, folder))
    python.unlink()
    assert said_by(python_for(image, folder), "print(1)") == "1"


def test_replicated_packages_are_written_out_when_the_execution_is_started() -> None:
    image = ImageSettings(replicate_local_python_environment=True, requirements=["PyTest>=8", "x"])
    frozen = with_frozen_packages(image)
    requirements = list(frozen.requirements or ())
    assert frozen.replicate_local_python_environment is False
    assert requirements[-2:] == ["PyTest>=8", "x"]
    assert any(each.startswith("msgspec==") for each in requirements)
    assert not any(each.startswith(("pytest==", "kitaru==")) for each in requirements)
    assert with_frozen_packages(frozen) == frozen
    plain = ImageSettings(requirements=["x"])
    assert with_frozen_packages(plain) is plain


def test_the_digest_tells_one_list_from_another(wheel: Wheel) -> None:
    file = wheel("kitaru_tiny", "answer = 1\n")
    lists = [[], ["a"], ["a", "b"], ["b", "a"], [str(file)]]
    assert len({digest_of(each) for each in lists}) == len(lists)
    assert digest_of(["a"]) == digest_of(("a",))


def test_a_package_of_an_index(folder: Path, uv_calls: Calls) -> None:
    try:
        python = python_for(ImageSettings(requirements=["six==1.17.0"]), folder)
    except KitaruImageError as error:
        if any(word in error.output for word in ("connect", "dns", "fetch", "network", "offline")):
            pytest.skip(f"no package index can be reached: {error.output.splitlines()[-1]}")
        raise
    assert said_by(python, "import six; print(six.__version__)") == "1.17.0"
