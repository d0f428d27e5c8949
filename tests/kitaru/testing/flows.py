"""Flows that are tested with the test tools: sound ones, and ones with a bug each."""

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pydantic

import kitaru
from kitaru import Retry, checkpoint, flow

WORLD: list[str] = []
"""What bodies have done to the world outside."""
PASSES: list[str] = []
NUMBERS = itertools.count()


def new_world() -> None:
    """Nothing has been done yet."""
    WORLD.clear()
    PASSES.clear()


@checkpoint
def double(number: int) -> int:
    return 2 * number


@checkpoint
def start_another(number: int) -> int:
    key = kitaru.idempotency_key()
    return two_steps.with_options(idempotency_key=key).run(number).wait()


@checkpoint
async def double_async(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


@checkpoint(retries=Retry(max_attempts=4, first_delay=3600.0, jitter=0.0))
def unsteady(number: int) -> int:
    WORLD.append("unsteady")
    if len(WORLD) == 1:
        raise ConnectionError("not yet")
    return number


@checkpoint(effect="once")
def pay(amount: int) -> str:
    WORLD.append(f"pay {amount}")
    return f"paid {amount}"


@checkpoint
def charge(order: str) -> str:
    WORLD.append(f"charge {order}")
    return "charged"


@checkpoint
def charge_with_key(order: str) -> str:
    key = kitaru.idempotency_key()
    if key not in WORLD:
        WORLD.append(key)
    return "charged"


class Receipt(pydantic.BaseModel):
    paid: int


@checkpoint(effect="once")
def pay_for_a_receipt(amount: int) -> Receipt:
    WORLD.append(f"pay {amount}")
    return Receipt(paid=amount)


@checkpoint
def tells_and_saves(number: int) -> str:
    kitaru.log(number=number)
    kitaru.save("numbers", [number])
    return "x" * 40_000


@flow
def many_things(number: int) -> list[Any]:
    receipt = pay_for_a_receipt(number)
    kitaru.log(paid=receipt.paid)
    return [receipt.paid, tells_and_saves(number), start_another(number)]


@flow
async def many_things_async(number: int) -> list[Any]:
    receipt = await pay_for_a_receipt.aio(number)
    kitaru.log(paid=receipt.paid)
    return [receipt.paid, *await asyncio.gather(*(tells_and_saves.aio(n) for n in range(2)))]


@flow
def two_steps(number: int) -> int:
    return double(double(number))


@flow
async def two_steps_async(number: int) -> int:
    return await double_async(await double_async(number))


@flow
def everything(number: int) -> list[Any]:
    first = unsteady(number)
    kitaru.sleep(timedelta(days=30))
    paid = pay(first)
    futures = [double.submit(n) for n in range(3)]
    approved = kitaru.wait(name="approve", schema=bool)
    results = [future.result() for future in futures]
    return [first, paid, approved, results, str(kitaru.now().date()), kitaru.random()]


@flow
async def everything_async(number: int) -> list[Any]:
    first = await unsteady.aio(number)
    await asyncio.sleep(30 * 86_400)
    paid = await pay.aio(first)
    results, approved = await asyncio.gather(
        asyncio.gather(*(double_async(n) for n in range(3))),
        kitaru.wait(name="approve", schema=bool),
    )
    try:
        async with asyncio.timeout(3600):
            await kitaru.wait(name="nobody answers this")
    except TimeoutError:
        results.append(-1)
    return [first, paid, approved, results, str(kitaru.now().date()), kitaru.random()]


@flow
def charges_twice(order: str) -> str:
    double(1)
    return charge(order)


@flow
async def charges_twice_async(order: str) -> str:
    await double_async(1)
    return await charge.aio(order)


@flow
def charges_once(order: str) -> str:
    double(1)
    return charge_with_key(order)


@flow
def counts_its_passes(number: int) -> int:
    PASSES.append("a pass")
    double(number)
    return len(PASSES)


@flow
def takes_a_new_number(number: int) -> int:
    return double(next(NUMBERS) * double(number))


@flow
def writes_from_its_body(number: int) -> int:
    WORLD.append(f"mail about {number}")
    return double(number)


@flow
async def depends_on_the_order(number: int) -> list[int]:
    seen: list[int] = []

    async def one(each: int) -> None:
        seen.append(await double_async(each))

    await asyncio.gather(*(one(number + n) for n in range(3)))
    return seen


@flow
def waits_for_somebody(number: int) -> Any:
    double(number)
    return kitaru.wait(name="go on", schema=int)


@flow
def fails(number: int) -> None:
    double(number)
    raise LookupError(f"there is no {number}")


@checkpoint
def hangs(number: int) -> int:
    raise AssertionError("a stand-in is to run")


@flow
async def gives_up(number: int) -> str:
    try:
        async with asyncio.timeout(60):
            await hangs.aio(number)
    except TimeoutError:
        return "too late"
    return "in time"
