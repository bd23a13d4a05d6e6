"""What a client sends: requests that are alike but for a number or two, and what stands in their answers."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bench import scenarios

LIBRARY_PAGE: Final = json.dumps({"query": scenarios.LIBRARY, "variables": scenarios.LIBRARY_ASKED})
"""The body of the request that asks for the library page."""

Kind = Literal["charge", "batch", "floor", "balance", "library"]

MARKS: Final[Mapping[Kind, tuple[str, int]]] = {
    "charge": ('"ChargeSuccess"', 1),
    "batch": ('"ChargeSuccess"', scenarios.BATCH_ITEMS),
    "floor": ('"ChargeSuccess"', 1),
    "balance": ('"version":', 1),
    "library": ('"taskId":', scenarios.LIBRARY_TASKS),
}
"""What stands in the body of a reply that is as it should be, and how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send. `run` is the beginning of all block run ids of this measurement; nobody else uses it. `tasks`: only
    the first so many of the load's; None: all."""

    kind: Kind
    load: scenarios.Load
    port: int
    key: str
    run: str
    connections: int
    warm_up_seconds: float
    seconds: float
    server_pids: list[int]
    database_pids: list[int]
    tasks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All requests of a plan, in parts. They are equally long."""

    before: str
    item: str
    """Stands in each `items` times, between commas; `%06d` in it is a random number below `choices`, `%08d` one that
    counts up."""
    items: int
    after: str
    choices: int


def shape_of(plan: Plan) -> Shape:
    match plan.kind:
        case "library":
            return _shape(plan, LIBRARY_PAGE, "", "")
        case "balance":
            asked = f'{{"query":{json.dumps(scenarios.BALANCE)},"variables":{{"ownerId":"'
            return _shape(plan, asked, "owner-%06d", '"}}')
    item = f'{{"taskId":"{plan.load}-%06d","blockRunId":"{plan.run}-%08d",{scenarios.RUN}}}'
    document, opening, closing = scenarios.CHARGE, "", ""
    if plan.kind == "batch":
        document, opening, closing = scenarios.CHARGE_BATCH, "[", "]"
    return _shape(plan, f'{{"query":{json.dumps(document)},"variables":{{"input":{opening}', item, f"{closing}}}}}")


def _shape(plan: Plan, before: str, item: str, after: str) -> Shape:
    items = scenarios.BATCH_ITEMS if plan.kind == "batch" else 1 if item else 0
    one = item.replace("%06d", "000000").replace("%08d", "00000000")
    length = len(before) + len(",".join([one] * items)) + len(after)
    head = (
        f"POST {'/route' if plan.kind == 'floor' else '/graphql'} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {plan.key}\r\nContent-Length: {length}\r\n\r\n"
    )
    choices = plan.tasks or scenarios.task_count("many" if plan.load == "balance" else plan.load)
    return Shape(before=head + before, item=item, items=items, after=after, choices=choices)


def requests_of(plan: Plan) -> Callable[[], bytes]:
    """A function that gives the next request."""
    shape = shape_of(plan)
    before, after, item = shape.before.encode(), shape.after.encode(), shape.item.encode()
    if not shape.items:
        request = before + after
        return lambda: request
    chance = random.Random(plan.run).random  # noqa: S311  spreads the load, and the same way each time
    numbers = iter(range(100_000_000))
    counted = b"%08d" in item

    def one() -> bytes:
        choice = int(chance() * shape.choices)
        return item % ((choice, next(numbers)) if counted else choice)

    if shape.items == 1:
        return lambda: before + one() + after
    return lambda: before + b",".join([one() for _ in range(shape.items)]) + after
