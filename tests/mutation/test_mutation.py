"""The mutants: what is changed, that it is one thing, and that a test which looks notices."""

import ast
from pathlib import Path

import pytest

from tests.mutation import sql
from tests.mutation.changes import ROOT, mutants_of
from tests.mutation.outcome import Reach
from tests.mutation.results import FileResult, known_survivors, read_results, tried_again
from tests.mutation.swap import Functions

SOURCE = '''"""A docstring: not to be changed."""

LIMIT = 3
__all__ = ["place"]


def place(number: int, names: dict[str, int]) -> str:
    """Not this one either."""
    if number > LIMIT and names:
        names["last"] = number
        return f"a message, {number}"
    for _ in range(number):
        continue
    return "first" if not names else "later"
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "module.py").write_text(SOURCE, encoding="utf-8")
    for module in ("changes", "swap"):
        monkeypatch.setattr(f"tests.mutation.{module}.ROOT", tmp_path)
    return "module.py"


def test_each_mutant_is_one_change_and_can_be_compiled(file: str) -> None:
    whole = ast.unparse(ast.parse(SOURCE)).splitlines()
    mutants = list(mutants_of(file))
    for mutant in mutants:
        compile(mutant.tree, "module.py", "exec")
        changed = ast.unparse(mutant.tree).splitlines()
        assert changed != whole
        assert len(set(changed) ^ set(whole)) <= 2, mutant.what
    whats = {mutant.what for mutant in mutants}
    assert whats >= {
        "3 -> 4",
        "number > LIMIT -> number >= LIMIT",
        "number > LIMIT and names -> number > LIMIT or names",
        "names['last'] = number -> pass",
        "not names -> not not names",
        "'later' -> 'laterX'",
        "continue -> break",
    }
    assert not any("docstring" in what or "place" in what for what in whats)
    assert len({mutant.name for mutant in mutants}) == len(mutants)


def test_a_mutant_says_where_it_is(file: str) -> None:
    by_what = {mutant.what: mutant for mutant in mutants_of(file)}
    assert by_what["3 -> 4"].function == ""
    inside = by_what["number > LIMIT -> number >= LIMIT"]
    assert (inside.function, inside.lines) == ("place", (9, 9))
    assert inside.name == "module.py:place: number > LIMIT -> number >= LIMIT"


def test_a_mutant_takes_the_place_of_what_is_in_memory(file: str, tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(compile(SOURCE, str(tmp_path / file), "exec"), names)
    place = names["place"]
    assert callable(place)
    assert place(3, {"a": 1}) == "later"
    changed = {mutant.what: mutant for mutant in mutants_of(file)}
    functions = Functions()
    assert functions.change(file, changed["number > LIMIT -> number >= LIMIT"].tree)
    assert place(3, {"a": 1}) == "a message, 3"
    assert not functions.change(file, changed["number > LIMIT -> number >= LIMIT"].tree)


@pytest.mark.parametrize(
    ("statement", "changed"),
    [
        (
            "SELECT a FROM b WHERE c = ? AND d > 1 ORDER BY a DESC LIMIT ?",
            {
                "SELECT a FROM b WHERE c <> ? AND d > 1 ORDER BY a DESC LIMIT ?",
                "SELECT a FROM b WHERE c = ? AND d >= 1 ORDER BY a DESC LIMIT ?",
                "SELECT a FROM b WHERE c = ? OR d > 1 ORDER BY a DESC LIMIT ?",
                "SELECT a FROM b WHERE c = ? AND d > 1 ORDER BY a ASC LIMIT ?",
                "SELECT a FROM b WHERE c = ? AND d > 1  LIMIT ?",
                "SELECT a FROM b WHERE c = ? AND d > 1 ORDER BY a DESC LIMIT -1 + 0 * ?",
            },
        ),
        ("UPDATE a SET b = ?, c = ? WHERE d = ?", {"UPDATE a SET b = ?, c = ? WHERE d <> ?"}),
        ("INSERT OR IGNORE INTO a VALUES (?)", {"INSERT INTO a VALUES (?)"}),
        ("BEGIN IMMEDIATE", {"BEGIN"}),
    ],
)
def test_sql_is_changed_where_it_decides(statement: str, changed: set[str]) -> None:
    assert sql.is_statement(statement)
    assert {sql.changed(statement, n) for n in range(sql.changes(statement))} == changed


def test_a_text_for_people_is_no_statement() -> None:
    assert not sql.is_statement("the journal was closed")
    assert not sql.is_statement("SELECT")


def test_tests_are_chosen_by_the_lines_that_they_run() -> None:
    reach = Reach({"a": 1.0, "b": 2.0}, {"f.py": {1: [""], 5: ["a"], 6: ["b"]}})
    assert reach.of("f.py", (5, 5)) == {"a"}
    assert reach.of("f.py", (1, 6)) == {"", "a", "b"}
    assert reach.of("g.py", (1, 6)) == set()
    assert reach.of_file("f.py") == {"a", "b"}


def test_a_files_own_tests_are_asked_first_and_of_all_the_quick_ones() -> None:
    own, other = "tests/a/test_f.py::test", "tests/a/test_g.py::test"
    reach = Reach({f"{own}_slow": 3.0, f"{own}_quick": 1.0, f"{other}_quick": 0.5}, {})
    assert reach.own_of("a/f.py") == {f"{own}_slow", f"{own}_quick"}
    assert reach.quick_of(reach.tests, 9.0, "a/f.py") == [
        f"{own}_quick",
        f"{own}_slow",
        f"{other}_quick",
    ]
    assert reach.quick_of(reach.tests, 2.0, "a/f.py") == [f"{own}_quick"]
    assert reach.quick_of(reach.tests, 0.1, "a/g.py") == [f"{other}_quick"]


def test_what_is_tried_again_is_counted_once() -> None:
    before = FileResult("one", 10, 6, 1, ["a", "b", "c"])
    again = FileResult("two", 3, 2, 0, ["c"])
    assert tried_again(before, again) == FileResult("two", 10, 8, 1, ["c"])


def test_survivors_that_are_explained_are_mutants_and_survive() -> None:
    known = known_survivors()
    assert all(known.values()), "each has a reason above it"
    files = {name.split(":")[0] for name in known}
    there = {mutant.name for file in files for mutant in mutants_of(file)}
    assert sorted(set(known) - there) == []
    results = read_results()
    whole = {file for file, result in results.items() if not result.untried}
    recorded = {name for result in results.values() for name in result.survivors}
    gone = {name for name in set(known) - recorded if name.split(":")[0] in whole}
    assert sorted(gone) == []


def test_every_result_adds_up() -> None:
    for file, result in read_results().items():
        assert (ROOT / file).exists()
        assert result.mutants == result.noticed + result.hung + len(result.survivors)
