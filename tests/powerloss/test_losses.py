"""The law: whatever a loss of power leaves of the journal's files, all that was told is in it."""

import os

import pytest

from tests.powerloss.losses import FAILING, Trial, lose_power, trials
from tests.preload import shim

pytestmark = [
    pytest.mark.skipif(bool(shim.why_not()), reason=shim.why_not() or "-"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
IMAGES = int(os.environ.get("KITARU_TEST_POWER_LOSSES", "20000"))


@pytest.fixture(scope="module")
def library() -> str:
    return shim.compiled()


def test_no_loss_of_power_loses_what_was_told(library: str) -> None:
    verdict = lose_power(list(trials(IMAGES, seed=1)), library)
    assert verdict.wrong == []
    assert verdict.counts["images"] >= IMAGES
    assert verdict.counts["distinct"] >= IMAGES / 3
    assert verdict.counts["failed syncs"] > 0


# The negative control: a journal that syncs less than ours loses what it told, and this is seen.


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_journal_that_syncs_less_is_found_out(library: str, synchronous: str) -> None:
    verdict = lose_power([Trial("writer", 1, 200, synchronous=synchronous)], library, 1)
    assert verdict.counts["with losses"] > 20


# A failed sync: the commit is neither done nor undone until it was read back (D3).


def test_a_failed_sync_is_settled(library: str) -> None:
    tried = [
        Trial("writer", at, 300, fail=f"{failing}:{at}")
        for failing in FAILING
        for at in range(1, 5)
    ]
    verdict = lose_power(tried, library)
    assert verdict.wrong == []
    assert verdict.counts["failed syncs"] == len(tried)
