"""A context for a container image: all of it, nothing secret in it, and built where it can be."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kitaru.engine.bundles import BundledFile
from kitaru.errors import KitaruImageError, KitaruUsageError
from kitaru.image import NO_IMAGE, ImageSettings
from kitaru.stacks.images.containers import (
    build,
    build_tool,
    containerfile_text,
    image_name,
    write_context,
)
from tests.kitaru.stacks.images.conftest import make_wheel

FILES = [BundledFile("agents.py", b"x = 1\n"), BundledFile("tools/search.py", b"y = 2\n")]
Wheel = Callable[..., Path]


def test_a_context_has_all_that_is_needed(tmp_path: Path, wheel: Wheel) -> None:
    tiny = wheel("kitaru_tiny", "answer = 42\n")
    image = ImageSettings(
        base_image="python:3.13",
        requirements=["httpx>=0.28", f"kitaru-tiny @ {tiny.as_uri()}"],
        apt_packages=["git", "weird; rm -rf /"],
        environment={"LEVEL": 'a "b" $c \\d', "API_KEY": "sesame"},
        user="nobody",
        image_tag="v1",
        target_repository="registry.example/team/",
    )
    context = write_context(tmp_path / "context", FILES, "agents.py", "My_Agent", image)
    folder = Path(context.folder)
    assert (folder / "source/tools/search.py").read_bytes() == b"y = 2\n"
    assert (folder / "wheels" / tiny.name).read_bytes() == tiny.read_bytes()
    assert context.image == "registry.example/team/my-agent:v1"
    requirements = (folder / "requirements.txt").read_text().split()
    assert requirements[-2:] == ["httpx>=0.28", f"./wheels/{tiny.name}"]
    assert any(each.startswith("msgspec==") for each in requirements)
    # The name belongs to somebody else on the public index.
    assert not any(each.startswith("kitaru=") for each in requirements)
    text = Path(context.containerfile).read_text()
    assert text.splitlines()[0] == "FROM python:3.13"
    assert "-- git 'weird; rm -rf /' &&" in text
    assert r'ENV LEVEL="a \"b\" \$c \\d"' in text
    assert "USER nobody" in text
    assert text.splitlines()[-1] == 'CMD ["python","-m","kitaru","worker","agents.py"]'
    whole = "".join(
        file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file()
    )
    assert "sesame" not in whole
    assert "API_KEY" in text


def test_kitaru_runs_from_what_is_in_the_context(tmp_path: Path) -> None:
    context = write_context(tmp_path / "context", FILES, "agents.py", "agent", NO_IMAGE)
    program = "import kitaru.surfaces.cli.main as m; print(m.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(context.folder) / "source",
        env={"PYTHONPATH": str(Path(context.folder) / "runtime")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"{context.folder}/runtime/kitaru")


def test_a_containerfile_of_ones_own_is_used_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "Own"
    own.write_text("FROM scratch\n")
    image = ImageSettings(dockerfile=str(own), build_context_root=str(tmp_path))
    context = write_context(tmp_path / "context", FILES, "agents.py", "agent", image)
    assert Path(context.containerfile).read_text() == "FROM scratch\n"
    assert context.root == str(tmp_path)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dockerfile": "/absent/Own"}, "there is no file /absent/Own"),
        ({"dockerfile": "/absent/Own", "base_image": "x"}, "say what image.base_image says"),
        ({"build_context_root": "/src"}, "belongs to image.dockerfile"),
        ({"environment": {"A": "one\ntwo"}}, "A has several lines"),
        ({"requirements": ["/absent/project"]}, "/absent/project is not a file"),
    ],
)
def test_what_no_container_can_be_told_is_refused_before_anything_is_written(
    fields: Any, named: str, tmp_path: Path
) -> None:
    with pytest.raises(KitaruUsageError, match=named):
        write_context(tmp_path / "c", FILES, "agents.py", "agent", ImageSettings(**fields))
    assert not (tmp_path / "c").exists()


def test_a_file_of_ones_own_says_all_itself(tmp_path: Path) -> None:
    own = tmp_path / "Own"
    own.write_text("FROM scratch\n")
    kept = ImageSettings(dockerfile=str(own), environment={"API_KEY": "sesame"})
    write_context(tmp_path / "context", FILES, "agents.py", "agent", kept)
    lost = ImageSettings(dockerfile=str(own), environment={"LEVEL": "low"})
    nowhere = ImageSettings(dockerfile=str(own), build_context_root="--absent")
    for image, named in ((lost, "say what image.environment"), (nowhere, "no folder --absent")):
        with pytest.raises(KitaruUsageError, match=named):
            write_context(tmp_path / "other", FILES, "agents.py", "agent", image)


def test_two_wheels_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_wheel(tmp_path / name, "tiny", f"which = {name!r}\n")
    wheels = [str(wheel) for wheel in sorted(tmp_path.rglob("*.whl"))]
    with pytest.raises(KitaruUsageError, match="two files of one name"):
        write_context(
            tmp_path / "c", FILES, "agents.py", "agent", ImageSettings(requirements=wheels)
        )


@pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed")
def test_buildah_builds_a_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = tmp_path / "storage.conf"
    storage.write_text(
        "[storage]\ndriver = 'vfs'\n"
        f"graphroot = '{tmp_path / 'images'}'\nrunroot = '{tmp_path / 'run'}'\n"
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(storage))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    own = tmp_path / "Own"
    own.write_text("FROM scratch\nCOPY source/ /source/\n")
    image = ImageSettings(dockerfile=str(own), target_repository="localhost/team")
    context = write_context(tmp_path / "context", FILES, "agents.py", "agent", image)
    build(context, "buildah", image)
    listed = subprocess.run(["buildah", "images"], capture_output=True, text=True, check=True)
    assert "localhost/team/agent" in listed.stdout


def test_nobodys_files_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(KitaruUsageError, match="is not empty"):
        write_context(tmp_path, FILES, "agents.py", "agent", NO_IMAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_without_a_base_image_it_is_this_python() -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert containerfile_text(NO_IMAGE, "a.py").startswith(f"FROM python:{version}-slim\n")
    assert image_name(NO_IMAGE, "___") == "flow:latest"


def test_the_first_tool_that_is_installed_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    if build_tool() is None:
        (tmp_path / "bin").mkdir()
        tool = tmp_path / "bin" / "podman"
        tool.write_text('#!/bin/sh\necho "$@"\n[ "$3" ] && [ ! -e "$3.fail" ]\n')
        tool.chmod(0o755)
    found = build_tool()
    assert found is not None
    if Path(found).parent != tmp_path / "bin":
        pytest.skip(f"{found} is installed, and building with it needs a registry")
    image = ImageSettings(platform="linux/arm64")
    context = write_context(tmp_path / "context", FILES, "agents.py", "agent", image)
    build(context, found, image)
    Path(context.containerfile + ".fail").touch()
    with pytest.raises(KitaruImageError, match="podman ended with exit code 1") as caught:
        build(context, found, image)
    assert caught.value.output.split() == [
        "build",
        "--file",
        context.containerfile,
        "--tag",
        "agent:latest",
        "--platform",
        "linux/arm64",
        context.root,
    ]
