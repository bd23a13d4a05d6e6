"""The checklist: its points in their order, and the walk along them."""

import asyncio
from typing import Final

from app import database
from app.commands.checklist import chosen, content, installed, server
from app.commands.checklist.findings import Finding, Installation, Point, State, left_out, verdict

LOOK_SECONDS: Final = 20.0
"""For one point: what hangs is a fault of its own."""
DATABASE: Final = "database"
MIGRATIONS: Final = "migrations"
INSUFFICIENT_PRIVILEGE: Final = "42501"

POINTS: Final = (
    Point(name="settings", look=chosen.settings),
    Point(name="secrets", look=chosen.secrets, in_development=False),
    Point(name="tokens", look=chosen.tokens),
    Point(name="key-set", look=installed.key_set),
    Point(name="hosts", look=chosen.hosts, in_development=False),
    Point(name="origins", look=chosen.origins, in_development=False),
    Point(name="proxy", look=chosen.proxy, in_development=False),
    Point(name="public-address", look=chosen.public_address, in_development=False),
    Point(name="payments", look=chosen.payments),
    Point(name="known-documents", look=chosen.known_documents),
    Point(name="logs", look=chosen.logs, in_development=False),
    Point(name="limits", look=chosen.limits, in_development=False),
    Point(name="versions", look=installed.versions),
    Point(name=DATABASE, look=server.reachable),
    Point(name="postgresql", look=server.version, needs=DATABASE),
    Point(name="encryption", look=server.encryption, needs=DATABASE, in_development=False),
    Point(name="durability", look=server.durability, needs=DATABASE),
    Point(name="connections", look=server.connections, needs=DATABASE),
    Point(name="clock", look=server.clock, needs=DATABASE),
    Point(name=MIGRATIONS, look=content.migrations, needs=DATABASE),
    Point(name="database-role", look=content.role, needs=DATABASE, in_development=False),
    Point(name="rate-card", look=content.rate_card, needs=MIGRATIONS),
    Point(name="service-keys", look=content.service_keys, needs=MIGRATIONS, in_development=False),
)

Walked = list[tuple[Point, Finding]]


async def walk(here: Installation) -> Walked:
    """What each point says, all of them, in their order. The database's pools are open meanwhile, and only then."""
    found: Walked = []
    holding: set[str] = set()
    try:
        for point in POINTS:
            finding = await _look(point, here, holding)
            found.append((point, finding))
            if finding.state is State.OK:
                holding.add(point.name)
    finally:
        if DATABASE in holding:
            await database.disconnect()
    return found


async def _look(point: Point, here: Installation, holding: set[str]) -> Finding:
    if not here.production and not point.in_development:
        return left_out("only production asks for it")
    if point.needs is not None and point.needs not in holding:
        return left_out(f"it needs {point.needs}")
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await point.look(here)
    except Exception as fault:
        return verdict([_unforeseen(fault)], "")


def _unforeseen(fault: Exception) -> str:
    """A fault that no point foresees, without its own words: they may repeat a secret."""
    if database.sqlstate(fault) == INSUFFICIENT_PRIVILEGE:
        return "DATABASE_URL's role may not read this: run `python -m app migrate` with MIGRATION_DATABASE_URL set."
    if isinstance(fault, TimeoutError):
        return f"There was no answer within {LOOK_SECONDS:g} s: see what keeps it, and run this again."
    return f"It cannot be looked at ({type(fault).__name__}): mend the points above, and run this again."
