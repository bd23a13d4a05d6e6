"""Adds credits: grants by an operator, and top-ups by users on the payment page of the sandbox provider."""

import asyncio
import re
from datetime import datetime, timedelta
from html import unescape
from typing import Any, Final

from examples.simulation import documents
from examples.simulation.client import UnexpectedResponse, expect_success
from examples.simulation.context import Context, Owner
from examples.simulation.workload import Promotion

RETURN_URL: Final = "https://platform.example/credits"
_FORM_TOKEN: Final = re.compile(r'name="token" value="([^"]*)"')


async def open_account(context: Context, owner: Owner) -> None:
    """Add the first credits with two concurrent grants, to test that both are added."""
    half = owner.profile.opening_credits // 2
    parts = {f"{owner.id}-opening-1": half, f"{owner.id}-opening-2": owner.profile.opening_credits - half}
    await asyncio.gather(*(_grant(context, owner, key, credits, reason="Welcome") for key, credits in parts.items()))


async def grant_promotion(context: Context, owner: Owner, promotion: Promotion, key: str) -> None:
    """Add a promotional grant. The request is sent twice, and must have one effect."""
    now = await server_time(context, owner)
    starts_at = now + timedelta(seconds=promotion.starts_after_seconds) if promotion.starts_after_seconds else None
    expires_at = now + timedelta(seconds=promotion.expires_after_seconds)
    context.last_expiry_at = max(context.last_expiry_at or expires_at, expires_at)
    times: dict[str, str | None] = {
        "startsAt": starts_at.isoformat() if starts_at else None,
        "expiresAt": expires_at.isoformat(),
    }
    for _ in range(2):
        await _grant(context, owner, key, promotion.credits, reason="Promotion", **times)
    context.log(f"{owner.id} received {promotion.credits:,} credits that expire soon")


async def server_time(context: Context, owner: Owner) -> datetime:
    account = await context.client.execute(owner.token, documents.BALANCE)
    return datetime.fromisoformat(account["balance"]["asOf"])


async def top_up_once(context: Context, owner: Owner, *, top_ups_before: int) -> bool:
    """Top up, unless another task has topped up since the caller read `owner.top_up_count` (`top_ups_before`).

    Returns whether the owner buys credits at all.
    """
    if not owner.profile.top_up_credits:
        return False
    async with owner.top_up_lock:
        if owner.top_up_count == top_ups_before:
            await _top_up(context, owner, f"{owner.id}-top-up-{owner.top_up_count + 1}")
            owner.top_up_count += 1
    return True


async def _grant(context: Context, owner: Owner, key: str, credits: int, **fields: str | None) -> None:
    sent = {"ownerId": owner.id, "credits": credits, "idempotencyKey": key, **fields}
    response = await context.client.execute(context.tokens.operator, documents.GRANT_CREDITS, input=sent)
    context.expected.record_grant(owner.id, key, expect_success(response, "grantCredits")["grant"]["credits"])


async def _top_up(context: Context, owner: Owner, key: str) -> None:
    """Begin a top-up, then pay and confirm it concurrently, because webhook and confirmation may come in any order."""
    credits = owner.profile.top_up_credits
    sent = {"credits": credits, "returnUrl": RETURN_URL, "idempotencyKey": key}
    response = await context.client.execute(owner.token, documents.BEGIN_TOP_UP, input=sent)
    top_up = expect_success(response, "beginTopUp")["topUp"]
    if owner.profile.first_card_declined:
        await _submit_payment_page(context, top_up["paymentUrl"], "decline")
        declined = await _confirm(context, owner, top_up["id"])
        if declined["status"] != "FAILED":
            context.add_problem(f"top-up {top_up['id']} was declined and is {declined['status']}")
    await asyncio.gather(
        _submit_payment_page(context, top_up["paymentUrl"], "pay"), _confirm(context, owner, top_up["id"])
    )
    paid = await _confirm(context, owner, top_up["id"])
    if paid["status"] != "PAID" or paid["credits"] != credits:
        context.add_problem(f"top-up {top_up['id']} of {credits:,} was paid and is {paid}")
    context.expected.record_top_up(owner.id, key, paid["credits"])
    context.log(f"{owner.id} bought {credits:,} credits")


async def _submit_payment_page(context: Context, payment_url: str, decision: str) -> None:
    """Open the page and submit its form, as a browser does."""
    page = await context.client.request_page("GET", payment_url)
    token = _FORM_TOKEN.search(page.text)
    if page.status_code != 200 or token is None:
        raise UnexpectedResponse(f"no payment page at {payment_url}: {page.status_code}")
    submitted = await context.client.request_page(
        "POST", payment_url, {"token": unescape(token[1]), "decision": decision}
    )
    if submitted.status_code != 303 or submitted.headers["location"] != RETURN_URL:
        raise UnexpectedResponse(
            f"the payment page answered {decision} with {submitted.status_code}: {submitted.text[:200]}"
        )


async def _confirm(context: Context, owner: Owner, top_up_id: str) -> Any:
    response = await context.client.execute(owner.token, documents.CONFIRM_TOP_UP, input={"topUpId": top_up_id})
    return expect_success(response, "confirmTopUp")["topUp"]
