"""Where credits come from: grants by the operator, top-ups by the user on the sandbox's page."""

import asyncio
import re
from datetime import datetime, timedelta
from html import unescape
from typing import Any, Final

from examples.simulation import documents
from examples.simulation.client import UnexpectedResponse
from examples.simulation.context import Context, Owner, expect_success
from examples.simulation.workload import Promotion

RETURN_URL: Final = "https://platform.example/credits"
_TOKEN: Final = re.compile(r'name="token" value="([^"]*)"')


async def open_account(stage: Context, owner: Owner) -> None:
    """The first credits, in two grants at the same instant: both must count."""
    half = owner.habit.opening_credits // 2
    parts = {f"{owner.id}-opening-1": half, f"{owner.id}-opening-2": owner.habit.opening_credits - half}
    await asyncio.gather(*(_grant(stage, owner, key, credits, reason="Welcome") for key, credits in parts.items()))


async def grant_promotion(stage: Context, owner: Owner, promotion: Promotion, key: str) -> None:
    """A promotional grant, sent twice, as an operator's impatient script would."""
    now = await server_time(stage, owner)
    starts_at = now + timedelta(seconds=promotion.starts_after_seconds) if promotion.starts_after_seconds else None
    expires_at = now + timedelta(seconds=promotion.expires_after_seconds)
    stage.last_expiry_at = max(stage.last_expiry_at or expires_at, expires_at)
    for _ in range(2):
        await _grant(
            stage, owner, key, promotion.credits, reason="Promotion", starts_at=starts_at, expires_at=expires_at
        )
    stage.log(f"{owner.id} was granted {promotion.credits:,} credits for a moment")


async def server_time(stage: Context, owner: Owner) -> datetime:
    account = await stage.client.execute(owner.token, documents.BALANCE)
    return datetime.fromisoformat(account["balance"]["asOf"])


async def top_up_once(stage: Context, owner: Owner, *, credited_before: int) -> bool:
    """Top up, unless somebody has since `credited_before` was read. Returns: whether the account was credited."""
    if not owner.habit.top_up_credits:
        return False
    async with owner.topping_up:
        if owner.top_up_count == credited_before:
            await _top_up(stage, owner, f"{owner.id}-top-up-{owner.top_up_count + 1}")
            owner.top_up_count += 1
    return True


async def _grant(
    stage: Context,
    owner: Owner,
    key: str,
    credits: int,
    *,
    reason: str,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> None:
    sent = {
        "ownerId": owner.id,
        "credits": credits,
        "reason": reason,
        "startsAt": starts_at and starts_at.isoformat(),
        "expiresAt": expires_at and expires_at.isoformat(),
        "idempotencyKey": key,
    }
    answer = await stage.client.execute(stage.tokens.operator, documents.GRANT_CREDITS, input=sent)
    stage.expected.record_grant(owner.id, key, expect_success(answer, "grantCredits")["grant"]["credits"])


async def _top_up(stage: Context, owner: Owner, key: str) -> None:
    """Begin, pay on the page, return: webhook and return page may both settle."""
    credits = owner.habit.top_up_credits
    answer = await stage.client.execute(
        owner.token,
        documents.BEGIN_TOP_UP,
        input={"credits": credits, "returnUrl": RETURN_URL, "idempotencyKey": key},
    )
    top_up = expect_success(answer, "beginTopUp")["topUp"]
    if owner.habit.first_card_declined:
        await _decide(stage, top_up["paymentUrl"], "decline")
        declined = await _confirm(stage, owner, top_up["id"])
        if declined["status"] != "FAILED":
            stage.add_problem(f"top-up {top_up['id']} was declined and is {declined['status']}")
    await asyncio.gather(_decide(stage, top_up["paymentUrl"], "pay"), _confirm(stage, owner, top_up["id"]))
    paid = await _confirm(stage, owner, top_up["id"])
    if paid["status"] != "PAID" or paid["credits"] != credits:
        stage.add_problem(f"top-up {top_up['id']} of {credits:,} was paid and is {paid}")
    stage.expected.record_top_up(owner.id, key, paid["credits"])
    stage.log(f"{owner.id} bought {credits:,} credits")


async def _decide(stage: Context, payment_url: str, decision: str) -> None:
    """What a person's browser does: open the page, press a button of its form."""
    page = await stage.client.request_page("GET", payment_url)
    found = _TOKEN.search(page.text)
    if page.status_code != 200 or found is None:
        raise UnexpectedResponse(f"no sandbox page at {payment_url}: {page.status_code}")
    pressed = await stage.client.request_page("POST", payment_url, {"token": unescape(found[1]), "decision": decision})
    if pressed.status_code != 303 or pressed.headers["location"] != RETURN_URL:
        raise UnexpectedResponse(
            f"the sandbox page answered {decision} with {pressed.status_code}: {pressed.text[:200]}"
        )


async def _confirm(stage: Context, owner: Owner, top_up_id: str) -> Any:
    answer = await stage.client.execute(owner.token, documents.CONFIRM_TOP_UP, input={"topUpId": top_up_id})
    return expect_success(answer, "confirmTopUp")["topUp"]
