"""A project's source as one block of bytes: the same tree gives the same digest, on every machine.

A bundle is a MessagePack list of names and contents. It has no compression and cannot express
links, devices or modes, so that there is little for a forged one to try.
"""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from kitaru.errors import KitaruBackendError, KitaruUsageError

FORMAT = "kitaru-bundle-1"
IGNORE_FILE = ".kitaruignore"
MOST_BYTES = 64 * 1024 * 1024
MOST_FILES = 10_000
LONGEST_PATH = 1_024
OLD_DRAFT_SECONDS = 3_600
"""Nobody unpacks for so long."""
IGNORED = (
    ".git",
    ".hg",
    ".svn",
    ".kitaru",
    ".venv",
    "venv",
    ".env",
    ".env.*",
    ".envrc",
    ".netrc",
    ".pypirc",
    "__pycache__",
    "*.py[co]",
    "*.egg-info",
    "node_modules",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    ".coverage",
    ".ipynb_checkpoints",
    ".idea",
    ".vscode",
    ".DS_Store",
)
"""What is no part of a project's source, wherever it is in the tree, unless a rule takes it in
by its name: no `!*` does."""
ENVIRONMENT_FILE = "pyvenv.cfg"
"""What makes a folder a virtual environment, whatever its name."""


class NotBundled(KitaruUsageError):
    """A tree that no bundle can be made of; the message names the file and what to do."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} cannot be deployed: {problem}")
        self.path = path


class BundleDamaged(KitaruBackendError):
    """A bundle, or what was unpacked of it, is not what was deployed: nothing of it is loaded."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"Bundle {digest[:12]} is damaged: {problem}")
        self.digest = digest


class BundledFile(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One file of a bundle."""

    path: str
    """From the root, with forward slashes."""
    content: bytes


class _Content(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    format: str
    files: tuple[BundledFile, ...]


class Bundle(Struct, frozen=True):
    """A project's source, ready to be kept."""

    data: bytes
    digest: str
    """The hexadecimal SHA-256 of `data`."""
    paths: tuple[str, ...]


class Rule(Struct, frozen=True):
    """One line of an ignore file."""

    pattern: str
    takes_in: bool = False
    only_folders: bool = False

    @property
    def is_by_name(self) -> bool:
        """Whether it is about one name, and not about all of a form."""
        return not any(sign in self.pattern.rpartition("/")[2] for sign in "*?[")

    def covers(self, path: str, is_folder: bool) -> bool:
        """Whether it is about this path; without a slash it is about names anywhere."""
        if self.only_folders and not is_folder:
            return False
        name = path if "/" in self.pattern else path.rpartition("/")[2]
        return _expression(self.pattern.removeprefix("/")).fullmatch(name) is not None


_OWN_RULES = tuple(map(Rule, IGNORED))


def bundle_of(root: str, *, without: Sequence[str] = ()) -> Bundle:
    """The source below a folder, without what is ignored. Raises NotBundled.

    `without` are paths from the root that no rule takes in: what changes by itself, such as the
    journal.
    """
    rules = [*_rules(root), *(Rule(f"/{_literally(path)}") for path in without)]
    files: list[BundledFile] = []
    size = 0
    for path in _walk(root, rules):
        content = _read(root, path, MOST_BYTES - size)
        size += len(content)
        files.append(BundledFile(path, content))
        if len(files) > MOST_FILES:
            raise NotBundled(root, f"it has more than {MOST_FILES} files. {_ADVICE}")
    problem = _problem_of([file.path for file in files])
    if problem:
        raise NotBundled(root, f"{problem} {_ADVICE}")
    files.sort(key=lambda file: file.path.encode())
    data = msgspec.msgpack.encode(_Content(FORMAT, tuple(files)))
    return Bundle(data, hashlib.sha256(data).hexdigest(), tuple(file.path for file in files))


def opened(data: bytes, digest: str) -> tuple[BundledFile, ...]:
    """The files of a bundle, after every check. Raises BundleDamaged."""
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise BundleDamaged(digest, f"its bytes have the digest {found[:12]}.")
    try:
        content = msgspec.msgpack.decode(data, type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleDamaged(digest, f"it cannot be read: {error}") from error
    if content.format != FORMAT:
        raise BundleDamaged(digest, f"it is a {content.format!r}, and this version reads {FORMAT}.")
    if sum(len(file.content) for file in content.files) > MOST_BYTES:
        raise BundleDamaged(digest, f"it has more than {MOST_BYTES} bytes.")
    problem = _problem_of([file.path for file in content.files])
    if problem:
        raise BundleDamaged(digest, problem)
    return content.files


def unpack(data: bytes, digest: str, cache: str) -> str:
    """The folder in `cache` that holds exactly this bundle, which is made when it is not there.

    It appears whole or not at all, whoever else unpacks it and whoever is killed meanwhile. Raises
    BundleDamaged for a bad bundle, or a folder that no longer is what was unpacked, and
    KitaruBackendError where it cannot be written or read.
    """
    files = opened(data, digest)
    folder = Path(cache, digest)
    try:
        if not folder.is_dir():
            _make(files, folder)
        changed = next((file for file in files if _is_changed(folder / file.path, file)), None)
    except OSError as error:
        raise KitaruBackendError(
            f"Bundle {digest[:12]} cannot be unpacked in {cache}: {error}. Make room there, or let "
            "the user of the runner write to it."
        ) from error
    if changed is not None:
        place = folder / changed.path
        raise BundleDamaged(
            digest, f"{place} is not what was deployed. Delete {folder}; it is made anew."
        )
    return str(folder)


def _is_changed(place: Path, file: BundledFile) -> bool:
    return place.is_symlink() or not place.is_file() or place.read_bytes() != file.content


_ADVICE = f"Name what is no source in {IGNORE_FILE}, or deploy from a smaller root."


def _make(files: Sequence[BundledFile], folder: Path) -> None:
    draft = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    draft.mkdir(parents=True, mode=0o700)
    _remove_old_drafts(draft)
    try:
        for file in files:
            place = draft / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(place, "xb") as stream:
                stream.write(file.content)
                stream.flush()
                os.fsync(stream.fileno())
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_old_drafts(new: Path) -> None:
    """What processes have left beside a new draft that were killed while they unpacked."""
    for draft in new.parent.glob(".*-*"):
        # Another process may be unpacking, or removing, the same.
        with contextlib.suppress(OSError):
            # By the clock that has stamped both.
            if new.stat().st_mtime - draft.stat().st_mtime > OLD_DRAFT_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)


def _put_in_place(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        # Another process was faster; what it made is checked like every other.
        if not folder.is_dir():
            raise


def _rules(root: str) -> list[Rule]:
    rules = list(_OWN_RULES)
    place = Path(root, IGNORE_FILE)
    if place.is_symlink() or not place.is_file():
        return rules
    try:
        lines = place.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise NotBundled(str(place), "it is not UTF-8.") from None
    except OSError as error:
        raise NotBundled(str(place), f"{error.strerror}.") from error
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            rule = Rule(pattern.rstrip("/"), line.startswith("!"), pattern.endswith("/"))
            try:
                _expression(rule.pattern)
            except re.error as error:
                raise NotBundled(str(place), f"{line!r} is no pattern: {error}.") from None
            rules.append(rule)
    return rules


_PATTERN_PARTS = re.compile(
    r"""
    (?P<above>^\*\*/|(?<=/)\*\*/)     # any folders above, or none
    | (?P<below>(?<=/)\*\*$)          # all that is below
    | (?P<many>\*+)
    | (?P<one>\?)
    | \[(?P<isnot>[!^]?)(?P<signs>\]?[^\]/]*)\]
    | \\(?P<itself>.)
    """,
    re.VERBOSE | re.DOTALL,
)


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern of an ignore file as a regular expression."""
    found, end = "", 0
    for part in _PATTERN_PARTS.finditer(pattern):
        found += re.escape(pattern[end : part.start()]) + _meaning(part)
        end = part.end()
    return re.compile(found + re.escape(pattern[end:]), re.DOTALL)


def _meaning(part: re.Match[str]) -> str:
    match part.lastgroup:
        case "above":
            return "(?:.*/)?"
        case "below":
            return ".*"
        case "many":
            return "[^/]*"
        case "one":
            return "[^/]"
        case "itself":
            return re.escape(part["itself"])
        case _:
            signs = re.sub(r"([\\\[^&~|])", r"\\\1", part["signs"])
            return f"(?!/)[{'^' if part['isnot'] else ''}{signs}]"


def _literally(path: str) -> str:
    """The pattern of this path alone."""
    return re.sub(r"([\\*?\[])", r"\\\1", path)


def _ignored(path: str, is_folder: bool, rules: Sequence[Rule]) -> bool:
    # The last rule that is about a path decides, as people know it from git.
    for rule in reversed(rules):
        if rule.covers(path, is_folder):
            return not rule.takes_in or (
                not rule.is_by_name and any(own.covers(path, is_folder) for own in _OWN_RULES)
            )
    return False


def _walk(root: str, rules: Sequence[Rule]) -> Iterator[str]:
    folders = [""]
    while folders:
        below = folders.pop()
        inner: list[str] = []
        for entry in _entries(os.path.join(root, below)):
            path = f"{below}/{entry.name}" if below else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if _ignored(path, is_folder, rules):
                continue
            if not is_folder:
                yield path
            elif not _is_environment(entry.path) or _taken_in(path, rules):
                inner.append(path)
        folders.extend(reversed(inner))


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise NotBundled(folder, f"{error.strerror}.") from error


def _is_environment(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, ENVIRONMENT_FILE))


def _taken_in(path: str, rules: Sequence[Rule]) -> bool:
    return any(rule.takes_in and rule.is_by_name and rule.covers(path, True) for rule in rules)


def _read(root: str, path: str, most: int) -> bytes:
    place = os.path.join(root, path)
    try:
        mode = os.lstat(place).st_mode
        if stat.S_ISLNK(mode):
            problem = "it is a symbolic link; put the file itself there, or name it in"
            raise NotBundled(place, f"{problem} {IGNORE_FILE}.")
        if not stat.S_ISREG(mode):
            raise NotBundled(place, f"it is no ordinary file; name it in {IGNORE_FILE}.")
        # A link or a pipe that has just taken the file's place is refused, not followed.
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise NotBundled(place, f"{error.strerror}.") from error
    if len(content) > most:
        raise NotBundled(root, f"with {path} it has more than {MOST_BYTES} bytes. {_ADVICE}")
    return content


def _problem_of(paths: Sequence[str]) -> str:
    """Why files of these names cannot be unpacked side by side everywhere; empty: they can."""
    if len(paths) > MOST_FILES:
        return f"it has more than {MOST_FILES} files."
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        if not _is_plain(path):
            return f"{path!r} is no plain path inside its root."
        other = seen.get(_folded(path))
        if other is not None:
            return f"{other!r} and {path!r} are one file where case makes no difference."
        seen[_folded(path)] = path
        parts = path.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folders.setdefault(_folded(folder), folder) != folder:
                other = folders[_folded(folder)]
                return f"{other!r} and {folder!r} are one folder where case makes no difference."
    both = seen.keys() & folders.keys()
    return f"{seen[min(both)]!r} is both a file and a folder." if both else ""


def _is_plain(path: str) -> bool:
    if not path or len(path) > LONGEST_PATH or any(sign in path for sign in "\0\\:"):
        return False
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())
