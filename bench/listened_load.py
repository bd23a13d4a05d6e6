"""`bench.load`'s client, charging accounts that somebody listens to: the tasks `many-000000` to the last of `tasks`.

Given {"tasks": N, "plan": Plan} on stdin; writes a `Tally` on stdout, as `bench.load` does.
"""

import asyncio
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import uvloop

from bench import scenarios
from bench.load import Load, Plan, Tally
from bench.pacing import asking


def requests_of(plan: Plan, tasks: int) -> Callable[[], bytes]:
    """A function that gives the next request: another block run, of a random task. All are equally long."""
    task, run = "many-000000", f"{plan.run}-00000000"
    item = {"taskId": task, "blockRunId": run, "block": scenarios.BLOCK, "settings": scenarios.SETTINGS}
    frame = asking(plan.key, scenarios.CHARGE, {"input": item}).replace(b"%", b"%%")
    frame = frame.replace(task.encode(), b"many-%06d").replace(run.encode(), f"{plan.run}-%08d".encode())
    chance = random.Random(plan.run).random  # noqa: S311  spreads the load, and the same way each time
    numbers = iter(range(100_000_000))
    return lambda: frame % (int(chance() * tasks), next(numbers))


async def carry_out(given: dict[str, Any]) -> Tally:
    plan = Plan(**given["plan"])
    return await Load(plan, requests_of(plan, given["tasks"]), b'"ChargeSuccess"', 1).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(carry_out(json.load(sys.stdin)))
    json.dump(asdict(tally), sys.stdout)
