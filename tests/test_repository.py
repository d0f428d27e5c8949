"""The repository keeps its own promises: links, paths, tests, and what an import costs."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def has_code(file: Path) -> bool:
    """Whether there is more than a docstring in a file."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(not isinstance(statement, ast.Expr) for statement in body)


SOURCES = sorted(
    file
    for package in ("kitaru", "journal")
    for file in (ROOT / package).rglob("*.py")
    if has_code(file)
)

COVERED_ELSEWHERE: dict[str, str] = {
    # A source file or folder → the test file or folder that covers it, where paths do not mirror.
    "journal/__init__.py": "tests/journal/test_journal.py",
    "kitaru/__init__.py": "tests/test_seed.py",
    "kitaru/__main__.py": "tests/kitaru/surfaces/cli",
    "kitaru/bootstrap.py": "tests/test_seed.py",
    "kitaru/engine/async_attempts.py": "tests/kitaru/engine/test_async_runner.py",
    "kitaru/engine/async_ending.py": "tests/kitaru/engine/test_async_runner.py",
    "kitaru/engine/async_lookups.py": "tests/kitaru/engine/test_cache.py",
    "kitaru/engine/async_pass.py": "tests/kitaru/engine/test_async_runner.py",
    "kitaru/engine/async_recording.py": "tests/kitaru/engine/test_async_runner.py",
    "kitaru/engine/async_resting.py": "tests/kitaru/sdk/test_deterministic.py",
    "kitaru/engine/async_transactions.py": "tests/kitaru/engine/test_transactions.py",
    "kitaru/engine/async_waits.py": "tests/kitaru/sdk/test_wait.py",
    "kitaru/engine/codec/__init__.py": "tests/kitaru/engine/codec/test_codec.py",
    "kitaru/divergence.py": "tests/kitaru/engine/test_divergence.py",
    "kitaru/engine/arguments_policy.py": "tests/determinism/test_divergence.py",
    "kitaru/engine/divergence_story.py": "tests/determinism/test_divergence.py",
    "kitaru/engine/divergence_text.py": "tests/kitaru/engine/test_divergence.py",
    "kitaru/engine/flow_loop.py": "tests/kitaru/engine/test_runners.py",
    "kitaru/engine/heartbeat.py": "tests/kitaru/engine/test_runners.py",
    "kitaru/engine/isolated_child.py": "tests/kitaru/engine/test_isolated.py",
    "kitaru/engine/isolated_frames.py": "tests/kitaru/engine/test_isolated.py",
    "kitaru/engine/rehearsal.py": "tests/determinism/test_preflight.py",
    "kitaru/engine/runner.py": "tests/kitaru/engine/test_runners.py",
    "kitaru/engine/stacks.py": "tests/kitaru/domain/stack",
    "kitaru/engine/threads.py": "tests/kitaru/engine/test_runners.py",
    "kitaru/engine/waits.py": "tests/kitaru/sdk/test_wait.py",
    "kitaru/engine/sync_attempts.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_deliveries.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_ending.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_futures.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_pass.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_recording.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_replay.py": "tests/determinism/test_divergence.py",
    "kitaru/engine/sync_resting.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_submissions.py": "tests/kitaru/engine/test_sync_runner.py",
    "kitaru/engine/sync_transactions.py": "tests/kitaru/engine/test_transactions.py",
    "kitaru/engine/sync_waits.py": "tests/kitaru/sdk/test_wait.py",
    "kitaru/errors.py": "tests/test_seed.py",
    "kitaru/operations/information.py": "tests/kitaru/surfaces/cli/test_stack.py",
    "kitaru/stacks/free.py": "tests/kitaru/operations/test_placing.py",
    "kitaru/stacks/local.py": "tests/kitaru/operations/test_placing.py",
    "kitaru/stacks/port.py": "tests/kitaru/operations/test_placing.py",
    "kitaru/stacks/process.py": "tests/kitaru/operations/test_placing.py",
    "kitaru/operations/preflight.py": "tests/kitaru/engine/test_preflight.py",
    "kitaru/operations/backend.py": "tests/kitaru/operations/test_executions.py",
    "kitaru/operations/waits.py": "tests/kitaru/sdk/test_wait.py",
    "kitaru/projections": "tests/kitaru/projections",
    "kitaru/sdk": "tests/test_seed.py",
    "kitaru/status.py": "tests/test_seed.py",
    "kitaru/verdicts.py": "tests/kitaru/engine/test_preflight.py",
    "kitaru/surfaces": "tests/kitaru/surfaces/cli",
}

FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_PATH = re.compile(r"`(\.?[\w-]+(?:/[\w.-]+)+/?)(?::\d+)?`")
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.MULTILINE)
# Paths of the machine on which something was written mean nothing on another one.
PERSONAL_PATH = re.compile(r"(?<![\w.}])/(?:work|root|home/\w+|Users/\w+)/")


def ids(files: list[Path]) -> list[str]:
    return [str(file.relative_to(ROOT)) for file in files]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, hyphens for spaces, no punctuation."""
    words = (re.sub(r"[^\w\s-]", "", heading).strip() for heading in HEADING.findall(prose(page)))
    return {re.sub(r"\s", "-", text.lower()) for text in words}


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(place), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_every_path_that_is_named_exists(page: Path) -> None:
    for path in NAMED_PATH.findall(prose(page)):
        for base in (ROOT, ROOT / "kitaru"):
            if (base / path.split("/")[0]).exists():
                assert (base / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", PAGES[1:], ids=ids(PAGES[1:]))
def test_every_page_can_be_reached_from_the_index(page: Path) -> None:
    reached, left = set[Path](), [ROOT / "docs" / "README.md"]
    while left:
        here = left.pop()
        if here in reached or here.suffix != ".md" or not here.exists():
            continue
        reached.add(here)
        links = [link.partition("#")[0] for link in LINK.findall(prose(here))]
        left += [(here.parent / link).resolve() for link in links if link and "://" not in link]
    assert page in reached


@pytest.mark.parametrize("source", SOURCES, ids=ids(SOURCES))
def test_every_source_file_has_its_tests(source: Path) -> None:
    relative = source.relative_to(ROOT)
    wanted = list(places_of_tests(relative))
    covered = any((ROOT / place).exists() for place in wanted) or is_imported_nearby(relative)
    assert covered, "none of: " + ", ".join(wanted)


def places_of_tests(source: Path) -> Iterator[str]:
    """``a/b/c.py`` is covered by ``tests/a/b/test_c.py``, or by one for its package ``a/b``."""
    for path in (source, *source.parents):
        if (elsewhere := COVERED_ELSEWHERE.get(path.as_posix())) is not None:
            yield elsewhere
    is_package = source.name == "__init__.py"
    module = source.parent if is_package else source.with_suffix("")
    for place in (module, *list(module.parents)[:-1]):
        if place.parent.name:
            yield f"tests/{place.parent.as_posix()}/test_{place.name.strip('_')}.py"


def is_imported_nearby(source: Path) -> bool:
    """Whether a test of the same package names the module: one test may cover several files."""
    imported = re.compile(rf"\b{re.escape('.'.join(source.with_suffix('').parts))}\b")
    tests = (ROOT / "tests" / source.parent).glob("test_*.py")
    return any(imported.search(test.read_text(encoding="utf-8")) for test in tests)


@pytest.mark.parametrize(("source", "test"), COVERED_ELSEWHERE.items())
def test_what_is_said_to_be_covered_elsewhere_is_there(source: str, test: str) -> None:
    assert (ROOT / source).exists()
    assert (ROOT / test).exists()


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout, so its own files cannot be told from others")
    found = [
        f"{name}: {match[0]}"
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
        for match in PERSONAL_PATH.finditer(
            (ROOT / name).read_text(encoding="utf-8", errors="replace")
        )
    ]
    assert found == []


def test_importing_kitaru_is_cheap_and_starts_nothing() -> None:
    program = (
        "import sys, threading; import kitaru; "
        "heavy = {'aiosqlite', 'anyio', 'asyncio', 'click', 'pydantic', 'rich', 'structlog'}; "
        "print(sorted(heavy & set(sys.modules)), threading.active_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[] 1\n", done.stderr
