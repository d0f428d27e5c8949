"""What every engine does here, and how it says what that took: one JSON object on one line."""

import itertools
import json
import statistics
import sys
from typing import Any

EXECUTIONS = 1000
STEPS = 5
SEQUENTIAL_STEPS = 1000
PAYLOAD = {
    "ok": True,
    "city": "Sapporo",
    "temperature": 21.5,
    "note": "partly cloudy, light wind from the north-west",
}


def payload(number: int) -> dict[str, Any]:
    """A step's result, about 120 bytes of JSON."""
    return {**PAYLOAD, "step": number}


def tell(fanout_seconds: float, marks: list[float]) -> None:
    """Prints checkpoints per second of the fan-out, and the median time between two steps."""
    gaps = [after - before for before, after in itertools.pairwise(marks)]
    told = {
        "fanout_steps_per_s": EXECUTIONS * STEPS / fanout_seconds,
        "sequential_us": statistics.median(gaps) * 1e6,
        "python": sys.version.split()[0],
    }
    print(json.dumps(told), flush=True)
