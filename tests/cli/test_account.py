"""The command account: one page that shows why a user was stopped."""

import re

import pytest

from app.tasks import holds
from tests.command_line import run_beside
from tests.conftest import LEDGER_KEY
from tests.factories import grant_credits, hold_request, publish_rate_cards, start_task, try_charge

pytestmark = pytest.mark.anyio

SETTINGS = {"LEDGER_KEY": LEDGER_KEY.hex()}


async def test_one_page_shows_why_a_user_was_stopped(db: str) -> None:
    rate_cards = await publish_rate_cards()
    await grant_credits("alice", 40)
    writer = await start_task(task_id="writing", agent_id="writer")
    reader = await start_task(task_id="reading", budget=4)
    await try_charge(writer, rate_cards, block_run_id="run-1")
    await holds.place_hold(hold_request(writer, 20, block_run_id="run-2"), rate_cards)
    await try_charge(writer, rate_cards, block_run_id="run-3")
    await try_charge(reader, rate_cards, block_run_id="run-4")

    shown = await run_beside("account", "alice", DATABASE_URL=db, **SETTINGS)

    message = 'Agent "writer" was stopped: a block run costs 10 credits; available: 6. Add 4 credits to continue.'
    assert shown.stderr == ""
    page = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "AT", shown.stdout)
    assert re.sub(r"^Account \d+", "Account 1", page).splitlines() == [
        "Account 1 of alice, version 6",
        "available 6 = posted 30 - held 24 - frozen 0, at least 0",
        "",
        "Auto top-up",
        "  OFF: DISABLED",
        "",
        "Stopped tasks",
        "  AT  reading  agent agent  BUDGET_REACHED  required 10, now missing in the budget 6",
        "  AT  writing  agent writer  OUT_OF_CREDITS  required 10, now missing in the account 4",
        "",
        "Open holds",
        "  AT  task writing  block run run-2  20 credits held, expires AT",
        "  AT  task reading  budget  4 credits held, expires AT",
        "",
        "Open disputes",
        "  none",
        "",
        "Newest entries",
        "  AT  2  CHARGE  -10  balance 30  run-1  service:test",
        "  AT  1  GRANT  +40  balance 40  operator:test  for a test",
        "",
        "Unread notifications",
        f"  AT  OUT_OF_CREDITS  {message}",
    ]


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        ("nobody", "Error: OWNER nobody has no account.\n"),
        ("al ice", "Error: OWNER must have 1 to 255 visible characters, without spaces.\n"),
    ],
)
async def test_an_owner_without_an_account_is_refused(db: str, owner: str, message: str) -> None:
    refused = await run_beside("account", owner, DATABASE_URL=db, **SETTINGS)

    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", message)
