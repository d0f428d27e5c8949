"""What a body asks about its own execution."""

import asyncio
from typing import Any

import pytest

import kitaru
from kitaru import checkpoint, flow

keys: list[str] = []
amounts: list[int] = []


@pytest.fixture(autouse=True)
def _anew() -> None:
    keys.clear()
    amounts[:] = [10, 12, 12]


@checkpoint(retries=1)
def charge(amount: int) -> int:
    keys.append(kitaru.idempotency_key())
    if len(keys) == 1:
        raise ValueError("once more")
    return amount


@checkpoint(retries=1)
async def charge_async(amount: int) -> int:
    return charge.definition.function(amount)  # type: ignore[no-any-return]


@checkpoint(retries=1, runtime="isolated")
def charge_apart(amount: int) -> int:
    return charge.definition.function(amount)  # type: ignore[no-any-return]


@flow(retries=2)
def pays() -> int:
    paid = charge(amounts.pop(0))
    if amounts:
        raise ValueError(f"{paid} is not enough")
    return paid


@flow(retries=2)
def pays_apart() -> int:
    paid = charge_apart(amounts.pop(0))
    if amounts:
        raise ValueError(f"{paid} is not enough")
    return paid


@flow(retries=2)
async def pays_async() -> int:
    paid = await charge_async(amounts.pop(0))
    await asyncio.sleep(0)
    if amounts:
        raise ValueError(f"{paid} is not enough")
    return paid


@pytest.mark.parametrize("body", [pays, pays_apart, pays_async], ids=lambda body: body.name)
def test_a_call_with_other_arguments_has_a_key_of_its_own(body: Any) -> None:
    """The law: a key is the same for every attempt of a call, and for no other call.

    A service that drops what it knows the key of would otherwise drop the second charge.
    """
    assert body.sync.run().wait(timeout=60) == 12
    first, again, other = keys
    assert first == again != other
