"""The repository keeps its own promises: links, paths, tests, and what an import costs."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted(
    file
    for package in ("kitaru", "journal")
    for file in (ROOT / package).rglob("*.py")
    if file.read_text(encoding="utf-8").strip()
)

COVERED_ELSEWHERE: dict[str, str] = {
    # A source file or folder → the test file or folder that covers it, where paths do not mirror.
    "kitaru/__init__.py": "tests/test_public_api.py",
    "kitaru/status.py": "tests/kitaru/test_errors.py",
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
def test_every_page_can_be_reached_from_the_readme(page: Path) -> None:
    reached, left = set[Path](), [ROOT / "README.md"]
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
    wanted = list(places_of_tests(source.relative_to(ROOT)))
    assert any((ROOT / place).exists() for place in wanted), "none of: " + ", ".join(wanted)


def places_of_tests(source: Path) -> Iterator[str]:
    """``a/b/c.py`` is covered by ``tests/a/b/test_c.py``, or by one for its package ``a/b``."""
    for path in (source, *source.parents):
        if (elsewhere := COVERED_ELSEWHERE.get(path.as_posix())) is not None:
            yield elsewhere
    name = source.parent.name if source.name == "__init__.py" else source.stem.strip("_")
    folder = source.parent.parent if source.name == "__init__.py" else source.parent
    yield f"tests/{folder.as_posix()}/test_{name}.py"
    for package in list(source.parents)[:-2]:
        yield f"tests/{package.parent.as_posix()}/test_{package.name}.py"


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
