"""A bundle is the whole tree and nothing else; a bad one leaves nothing behind."""

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kitaru.engine import bundles
from kitaru.engine.bundles import BundleDamaged, NotBundled, bundle_of, opened, unpack
from kitaru.errors import KitaruBackendError


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def forged(*paths: str, content: bytes = b"evil") -> tuple[bytes, str]:
    data = msgspec.msgpack.encode([bundles.FORMAT, [[path, content] for path in paths]])
    return data, hashlib.sha256(data).hexdigest()


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


FILES = {"flows.py": "a = 1\n", "lib/__init__.py": "", "lib/deep/data.txt": "ü"}


def test_the_same_tree_has_the_same_digest_wherever_and_whenever_it_is(tmp_path: Path) -> None:
    one = project(tmp_path / "one", FILES)
    other = project(tmp_path / "other", dict(reversed(FILES.items())))
    os.utime(other / "flows.py", (1, 1))
    (other / "flows.py").chmod(0o755)
    assert bundle_of(str(one)) == bundle_of(str(other))


@pytest.mark.parametrize("name", sorted(FILES))
def test_each_byte_and_each_name_counts(tmp_path: Path, name: str) -> None:
    root = project(tmp_path, FILES)
    before = bundle_of(str(root)).digest
    (root / name).write_text(FILES[name] + "x")
    changed = bundle_of(str(root)).digest
    (root / name).write_text(FILES[name])
    assert bundle_of(str(root)).digest == before
    (root / name).rename(root / f"{name}.moved")
    assert len({before, changed, bundle_of(str(root)).digest}) == 3


def test_what_is_unpacked_is_what_was_bundled(tmp_path: Path) -> None:
    bundle = bundle_of(str(project(tmp_path / "root", FILES)))
    folder = Path(unpack(bundle.data, bundle.digest, str(tmp_path / "cache")))
    assert {name: (folder / name).read_text() for name in FILES} == FILES
    assert bundle_of(str(folder)) == bundle
    assert everything_in(tmp_path / "cache") == {
        bundle.digest,
        *(f"{bundle.digest}/{path}" for path in everything_in(folder)),
    }


def test_secrets_caches_and_the_journal_are_not_deployed(tmp_path: Path) -> None:
    extra = (".env", ".env.local", ".git/config", "lib/__pycache__/x.pyc", ".kitaru/journal.db")
    root = project(tmp_path, {**FILES, **dict.fromkeys(extra, "secret")})
    assert set(bundle_of(str(root)).paths) == set(FILES)


def test_the_projects_own_rules_leave_out_and_take_in(tmp_path: Path) -> None:
    rules = "# large\n*.csv\n/lib/deep/\n!.env\n"
    root = project(
        tmp_path, {**FILES, "a.csv": "", "lib/b.csv": "", ".env": "", ".kitaruignore": rules}
    )
    expected = {".env", ".kitaruignore", "flows.py", "lib/__init__.py"}
    assert set(bundle_of(str(root)).paths) == expected


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ("*.csv", ["data/d.txt", "data/deep/c.txt"]),
        ("/data/*.csv", ["a.csv", "data/d.txt", "data/deep/b.csv", "data/deep/c.txt"]),
        ("data/**", ["a.csv"]),
        ("data/**\n!data/d.txt", ["a.csv", "data/d.txt"]),
        ("**/deep", ["a.csv", "data/b.csv", "data/d.txt"]),
        ("deep/", ["a.csv", "data/b.csv", "data/d.txt"]),
        ("data/**/*.csv", ["a.csv", "data/d.txt", "data/deep/c.txt"]),
        ("**/a.csv", ["data/b.csv", "data/d.txt", "data/deep/b.csv", "data/deep/c.txt"]),
        ("[!a].csv", ["a.csv", "data/d.txt", "data/deep/c.txt"]),
        ("[]ab].csv\n?.txt", []),
        ("\\\\a.csv\n[.csv\n\\\\*.csv\nd?d.txt\ndata?d.txt\ndata[/]d.txt", None),
        ("\ufeffdata/", ["a.csv"]),
        ("# data\n\n/data/", ["a.csv"]),
    ],
)
def test_rules_mean_what_they_mean_to_git(
    tmp_path: Path, rules: str, left: list[str] | None
) -> None:
    files = ["a.csv", "data/b.csv", "data/d.txt", "data/deep/b.csv", "data/deep/c.txt"]
    project(tmp_path, dict.fromkeys(files, ""))
    (tmp_path / bundles.IGNORE_FILE).write_text(rules, "utf-8")
    found = [path for path in bundle_of(str(tmp_path)).paths if path != bundles.IGNORE_FILE]
    assert found == (files if left is None else left)


@pytest.mark.parametrize("rules", ["*\n!*/\n!*.py", "!*", "!**/*", "!.*", "!.env*\n!e*"])
def test_secrets_and_environments_are_taken_in_by_name_alone(tmp_path: Path, rules: str) -> None:
    left_out = [".env", ".git/hook.py", ".venv/a.py", "env311/pyvenv.cfg", "env311/b.py", "c.pyc"]
    project(tmp_path, dict.fromkeys(["flows.py", *left_out], ""))
    (tmp_path / bundles.IGNORE_FILE).write_text(rules)
    assert set(bundle_of(str(tmp_path)).paths) - {bundles.IGNORE_FILE} == {"flows.py"}


def test_a_rule_that_is_no_pattern_is_refused(tmp_path: Path) -> None:
    (tmp_path / bundles.IGNORE_FILE).write_text("[z-a].txt")
    with pytest.raises(NotBundled, match=r"'\[z-a\]\.txt' is no pattern"):
        bundle_of(str(tmp_path))


def test_a_path_that_no_rule_takes_in_is_that_path_alone(tmp_path: Path) -> None:
    names = ["a[b]*.db", "ab.db", "a[b]x.db", "b/a[b]*.db"]
    project(tmp_path, dict.fromkeys(names, ""))
    assert set(bundle_of(str(tmp_path), without=[names[0]]).paths) == set(names[1:])


def test_a_virtual_environment_of_any_name_is_not_deployed(tmp_path: Path) -> None:
    files = {"a.py": "", "env311/pyvenv.cfg": "home = x", "env311/lib/site.py": ""}
    project(tmp_path, files)
    (tmp_path / "env311" / "python").symlink_to("/usr/bin/python3")
    assert bundle_of(str(tmp_path)).paths == ("a.py",)
    (tmp_path / "env311" / "python").unlink()
    (tmp_path / bundles.IGNORE_FILE).write_text("!env311/")
    assert "env311/lib/site.py" in bundle_of(str(tmp_path)).paths


@pytest.mark.parametrize("name", [b"a\xff.txt", b"a\\b.txt", b"c:d.txt", b"x" * 250 + b".txt"])
def test_a_name_that_is_no_plain_path_is_refused_by_name(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "/".join(["y" * 200] * 4) if len(name) > 200 else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    with open(os.path.join(os.fsencode(folder), name), "wb"):
        pass
    with pytest.raises(NotBundled) as caught:
        bundle_of(str(tmp_path))
    assert "is no plain path inside its root" in str(caught.value)
    assert bundles.IGNORE_FILE in str(caught.value)
    (tmp_path / bundles.IGNORE_FILE).write_text("a*\nc*\n/yy*")
    assert bundle_of(str(tmp_path)).paths == (bundles.IGNORE_FILE,)


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder whose innermost file no path of the system's leads to."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    yield tmp_path
    # Not left to pytest: what removes folders from within cannot go so deep.
    while (tmp_path / "d/d").exists():
        (tmp_path / "d/d").rename(tmp_path / "below")
        (tmp_path / "d").rmdir()
        (tmp_path / "below").rename(tmp_path / "d")


def test_a_tree_of_any_depth_is_walked_or_refused(deep: Path) -> None:
    with pytest.raises(NotBundled, match="is no plain path inside its root"):
        bundle_of(str(deep))


def test_a_file_that_vanishes_while_it_is_packed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, {"a.py": "", "b.py": ""})
    read = bundles._read

    def reads(root: str, path: str, most: int) -> bytes:
        (tmp_path / "b.py").unlink(missing_ok=True)
        return read(root, path, most)

    monkeypatch.setattr(bundles, "_read", reads)
    with pytest.raises(NotBundled, match=r"b\.py cannot be deployed: No such file"):
        bundle_of(str(tmp_path))


@pytest.mark.parametrize("target", ["/etc/passwd", "flows.py", "nowhere", "."])
def test_a_symbolic_link_is_refused_by_name_wherever_it_leads(tmp_path: Path, target: str) -> None:
    root = project(tmp_path, FILES)
    (root / "link").symlink_to(target)
    with pytest.raises(NotBundled, match=r"link.*symbolic link"):
        bundle_of(str(root))
    (root / ".kitaruignore").write_text("link\n")
    assert "link" not in bundle_of(str(root)).paths


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotBundled, match="no ordinary file"):
        bundle_of(str(tmp_path))


def test_too_large_a_tree_is_refused_before_it_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path, {"a": "12345", "b": "12345"})
    monkeypatch.setattr(bundles, "MOST_BYTES", 9)
    with pytest.raises(NotBundled, match="more than 9 bytes"):
        bundle_of(str(root))
    monkeypatch.setattr(bundles, "MOST_BYTES", 10)
    bundle_of(str(root))
    monkeypatch.setattr(bundles, "MOST_FILES", 1)
    with pytest.raises(NotBundled, match="more than 1 files"):
        bundle_of(str(root))


@pytest.mark.parametrize(
    "names", [("A.py", "a.py"), ("Lib/a.py", "lib/b.py"), ("stra\u00dfe", "STRASSE")]
)
def test_names_that_collide_elsewhere_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    root = project(tmp_path / "root", dict.fromkeys(names, ""))
    with pytest.raises(NotBundled, match="case makes no difference"):
        bundle_of(str(root))
    with pytest.raises(BundleDamaged, match="case makes no difference"):
        opened(*forged(*names))


BAD_NAMES: list[tuple[str, ...]] = [
    ("../out.py",),
    ("lib/../../out.py",),
    ("/tmp/out.py",),
    ("C:/out.py",),
    ("..\\out.py",),
    ("",),
    (".",),
    ("a//b",),
    ("a/",),
    ("a\0b",),
    ("x" * 2_000,),
    ("a", "a/b"),
    ("a", "a"),
]


@pytest.mark.parametrize("names", BAD_NAMES)
def test_a_forged_name_is_refused_and_nothing_is_written(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    data, digest = forged("fine.py", *names)
    with pytest.raises(BundleDamaged):
        unpack(data, digest, str(tmp_path / "in" / "cache"))
    assert everything_in(tmp_path) == set()


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    bundle = bundle_of(str(project(tmp_path / "root", FILES)))
    for place in range(len(bundle.data)):
        flipped = bytearray(bundle.data)
        flipped[place] ^= 1
        with pytest.raises(BundleDamaged, match="digest"):
            unpack(bytes(flipped), bundle.digest, str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "content",
    [None, [], ["other", []], [bundles.FORMAT, [["a", "text"]]], [bundles.FORMAT, [["a"]]]],
)
def test_bytes_that_are_no_bundle_are_refused(content: Any) -> None:
    data = msgspec.msgpack.encode(content)
    with pytest.raises(BundleDamaged):
        opened(data, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("trouble", ["changed", "gone", "linked"])
def test_an_unpacked_file_that_is_no_longer_the_deployed_one_is_named(
    tmp_path: Path, trouble: str
) -> None:
    bundle = bundle_of(str(project(tmp_path / "root", FILES)))
    folder = Path(unpack(bundle.data, bundle.digest, str(tmp_path / "cache")))
    file = folder / "flows.py"
    content = file.read_text()
    file.unlink()
    if trouble == "changed":
        file.write_text(content.replace("1", "2"))
    if trouble == "linked":
        file.symlink_to(tmp_path / "root" / "flows.py")
    with pytest.raises(BundleDamaged, match=r"flows\.py"):
        unpack(bundle.data, bundle.digest, str(tmp_path / "cache"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    bundle = bundle_of(str(project(tmp_path / "root", FILES)))
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(KitaruBackendError, match=r"cannot be unpacked in .*cache"):
        unpack(bundle.data, bundle.digest, str(tmp_path / "cache"))


def test_a_process_killed_while_it_unpacks_leaves_nothing_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_of(str(project(tmp_path / "root", FILES)))
    cache = tmp_path / "cache"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bundles, "_put_in_place", killed)
        with pytest.raises(KeyboardInterrupt):
            unpack(bundle.data, bundle.digest, str(cache))
    assert not (cache / bundle.digest).exists()
    (cache / f".{bundle.digest}-dead").mkdir()
    assert bundle_of(unpack(bundle.data, bundle.digest, str(cache))) == bundle


def test_what_killed_unpackers_have_left_goes_and_what_others_just_unpack_stays(
    tmp_path: Path,
) -> None:
    bundle = bundle_of(str(project(tmp_path / "root", FILES)))
    left, others, another = (tmp_path / "cache" / name for name in (".ab-1", ".ab-2", "ab"))
    for folder in (left, others, another):
        project(folder, FILES)
    for folder in (left, another):
        os.utime(folder, (1, 1))
    unpack(bundle.data, bundle.digest, str(tmp_path / "cache"))
    assert not left.exists()
    assert others.exists()
    assert another.exists()


def test_many_unpack_the_same_bundle_at_once(tmp_path: Path) -> None:
    bundle = bundle_of(str(project(tmp_path / "root", FILES)))
    folders: list[str] = []
    together = threading.Barrier(8)

    def one() -> None:
        together.wait()
        folders.append(unpack(bundle.data, bundle.digest, str(tmp_path / "cache")))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [str(tmp_path / "cache" / bundle.digest)] * 8
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [bundle.digest]
