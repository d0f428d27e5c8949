"""The law: an id is that of one wait, and no name that a wait may have is an id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.domain.execution.state import OpenWait
from kitaru.domain.execution.wait_ids import early_answer, meant, wait_id

names = st.text("ab/[]12 ", min_size=1, max_size=4)
tasks = st.lists(st.integers(1, 3), max_size=2).map(
    lambda numbers: "".join(f"task[{number}]/" for number in numbers)
)
waits = st.builds(
    lambda task, name, ordinal: OpenWait(
        f"{task}{name}" + (f"#{ordinal}" if ordinal > 1 else ""), name
    ),
    tasks,
    names,
    st.integers(1, 12),
)


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("approve", "approve", "approve#1"),
        ("approve#2", "approve", "approve#2"),
        ("task[1]/approve", "approve", "task[1]/approve#1"),
        ("task[1]/task[2]/approve#12", "approve", "task[1]/task[2]/approve#12"),
        ("a/b", "a/b", "a/b#1"),
        ("2#2", "2", "2#2"),
        # Names that hold a number sign are in older journals.
        ("order #2", "order #2", "order #2#1"),
    ],
)
def test_an_id_is_the_path_with_an_ordinal(path: str, name: str, expected: str) -> None:
    assert wait_id(path, name) == expected


@given(st.lists(waits, max_size=5, unique_by=lambda wait: wait.path))
def test_an_id_means_one_wait_and_is_no_name(there: list[OpenWait]) -> None:
    ids = [wait.id for wait in there]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & {wait.name for wait in there}
    for wait in there:
        assert meant(wait.id, there) == [wait.path]
        others = [other for other in there if other is not wait]
        assert meant(wait.id, others) == []
        assert all(early_answer([wait.id], other.path, other.name) is None for other in others)
        assert early_answer([wait.id], wait.path, wait.name) == wait.id
        named = [other.path for other in there if other.name == wait.name]
        assert meant(wait.name, there) == named


def test_an_early_answer_for_the_id_goes_before_one_for_the_name() -> None:
    assert early_answer(["approve", "approve#1"], "approve", "approve") == "approve#1"
    assert early_answer(["approve", "approve#1"], "approve#2", "approve") == "approve"
