"""The routes of payments: notices of the provider, the sandbox's own pages, and receipts.

A notice is answered with 200 when it has been dealt with for good, 400 when it is not the provider's, and 503 when it
could not be dealt with now, so that the provider sends it again.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.db import failures
from app.errors import Unavailable
from app.topups import receipt_pages, receipts, rows, settlement
from app.topups.provider import DisputeStatus, InvalidProviderEvent, PaymentProvider
from app.topups.rules import PaymentStatus, find_return_url_problems
from app.topups.sandbox import cards as sandbox_cards
from app.topups.sandbox import pages
from app.topups.sandbox import provider as sandbox
from app.topups.sandbox.cards import BEHAVIOURS_BY_FORM_VALUE, CardBehaviour
from app.topups.sandbox.provider import Sandbox, SandboxPage

EVENT_LIMIT_BYTES: Final = 65_536
FORM_LIMIT_BYTES: Final = 4_096

PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    # No form-action: browsers apply it to the redirect that follows a form too, and the return page is another site's.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(eq=False)
class BodyRejected(Exception):
    """A body that is longer than it may be, or was cut off."""

    status: int
    text: str


def payment_routes(provider: PaymentProvider | None, *, seller: str | None = None) -> list[BaseRoute]:
    """`POST /webhooks/<provider>`, the sandbox's pages where the sandbox is the provider, and receipts.

    Without a provider nothing is sold any more, and receipts of what was sold stay.
    """
    found: list[BaseRoute] = [Route(f"{receipts.PATH}/{{token}}", _kindly(show_receipt_page(seller)), methods=["GET"])]
    if provider is None:
        return found
    path = f"/webhooks/{provider.name}"
    found.append(Route(path, webhook_endpoint(provider), methods=["POST"]))
    if isinstance(provider, Sandbox):
        page = f"{sandbox.PAGE_PATH}/{{reference}}"
        found += [
            Route(page, _kindly(show_payment_page(provider)), methods=["GET"]),
            Route(page, _kindly(submit_payment_form(provider, notify_path=path)), methods=["POST"]),
            Route(f"{sandbox.PORTAL_PATH}/{{customer_ref}}", _kindly(show_portal_page), methods=["GET"]),
        ]
    return found


def webhook_endpoint(provider: PaymentProvider) -> Endpoint:
    """The webhook: raw body in, the provider verifies, `settling` settles, 200 out."""

    async def answer(request: Request) -> Response:
        try:
            raw_body = await _body(request, limit_bytes=EVENT_LIMIT_BYTES)
            event = await provider.verify_event(raw_body, request.headers)
        except BodyRejected as refusal:
            return _said(refusal.status, refusal.text)
        except InvalidProviderEvent as refusal:
            return _said(400, refusal.reason)
        except Unavailable as refusal:
            log.error("a payment notice was turned away: %s", refusal)
            return _said(503, str(refusal))
        if event is None:
            return _said(200, "Thank you; this kind of notice changes nothing here.")
        try:
            outcome = await settlement.settle(event)
        except Exception:
            # Whatever it was, the notice must not be lost: it waits in our inbox, and the provider sends it again.
            log.exception("payment notice %s could not be settled", event.event_id)
            return _said(503, "The notice could not be dealt with now: send it again.")
        return JSONResponse({"outcome": outcome})

    return answer


def show_payment_page(provider: Sandbox) -> Endpoint:
    """The sandbox's page of one payment."""

    async def answer(request: Request) -> Response:
        page = await provider.find_payment_page(request.path_params["reference"])
        return _no_payment() if page is None else await _shown(provider, page)

    return answer


def submit_payment_form(provider: Sandbox, *, notify_path: str) -> Endpoint:
    """What the page's buttons send: pay, decline, or send the notice again; then back to where the buyer came from."""
    decisions = {"pay": PaymentStatus.PAID, "decline": PaymentStatus.DECLINED, "resend": None}
    disputes = {"dispute": DisputeStatus.OPEN, "win": DisputeStatus.WON, "lose": DisputeStatus.LOST}

    async def answer(request: Request) -> Response:
        page = await provider.find_payment_page(request.path_params["reference"])
        if page is None:
            return _no_payment()
        try:
            fields = parse_qs((await _body(request, limit_bytes=FORM_LIMIT_BYTES)).decode("latin-1"))
        except BodyRejected as refusal:
            return _told(refusal.status, "Not sent by this page", refusal.text)
        [token, decision, card] = [fields.get(name, [""])[0] for name in ("token", "decision", "card")]
        if not provider.check_form_token(page.reference, token):
            return _told(403, "Not sent by this page", "Open the payment page again and use its buttons.")
        if decision in disputes and page.status is PaymentStatus.PAID:
            dispute = await provider.decide_dispute(page, disputes[decision])
            await _notify(request, provider, provider.sign_event(dispute), path=notify_path)
            return Response(status_code=303, headers={"Location": request.url.path} | PAGE_HEADERS)
        if decision not in decisions:
            return _told(400, "Nothing was chosen", "Open the payment page again and choose one of its buttons.")
        if (state := decisions[decision]) is not None:
            page = await provider.decide_payment(
                page, state, card=BEHAVIOURS_BY_FORM_VALUE.get(card, CardBehaviour.PAYS)
            )
        if page.status is not PaymentStatus.OPEN:
            notice = provider.sign_payment_event(page, await sandbox_cards.find_card(page.provider_ref))
            await _notify(request, provider, notice, path=notify_path)
        # Back to the buyer's own page, exactly as it was given; to this one where there is none.
        onward = page.return_url if page.return_url is not None and state is not None else request.url.path
        return Response(status_code=303, headers={"Location": onward} | PAGE_HEADERS)

    return answer


def show_receipt_page(seller: str | None) -> Endpoint:
    """The receipt that a signed link names."""

    async def answer(request: Request) -> Response:
        reference = receipts.parse_token(request.path_params["token"])
        top_up = await rows.find(*reference) if reference is not None else None
        receipt = receipts.build_receipt(top_up) if top_up is not None else None
        if receipt is None:
            return _told(404, "There is no such receipt", "Take the address from your account's list of top-ups.")
        return HTMLResponse(receipt_pages.render_receipt(receipt, seller), headers=PAGE_HEADERS)

    return answer


async def show_portal_page(request: Request) -> Response:
    """The sandbox's page of a customer's cards, with a link back to where it came from."""
    labels = await sandbox_cards.find_card_labels(request.path_params["customer_ref"])
    back = request.query_params.get("return")
    return HTMLResponse(
        pages.render_portal(labels, None if find_return_url_problems(back) else back), headers=PAGE_HEADERS
    )


async def _notify(request: Request, provider: Sandbox, notice: tuple[bytes, dict[str, str]], *, path: str) -> None:
    """Send the notice to this server's own webhook, signed and in full, as a provider would.

    It may fail without harm: the return page asks (`confirmTopUp`), and the payment's page sends it again.
    """
    raw_body, headers = notice
    transport = httpx.ASGITransport(app=request.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=provider.address) as client:
        answer = await client.post(path, content=raw_body, headers=headers)
    if answer.status_code != 200:
        log.warning("the sandbox's notice to %s was answered with %s", path, answer.status_code)


async def _body(request: Request, *, limit_bytes: int) -> bytes:
    """The raw body. Raises: BodyRefused, before more than the limit has been kept."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                raise BodyRejected(413, f"At most {limit_bytes:,} bytes are taken.")
    except ClientDisconnect:
        raise BodyRejected(400, "The request was cut off.") from None
    return bytes(body)


def _kindly(answer: Endpoint) -> Endpoint:
    """A page's answer that says so in plain words when the database is out of reach."""

    async def wrapped(request: Request) -> Response:
        try:
            return await answer(request)
        except Exception as fault:
            if not (isinstance(fault, Unavailable) or failures.is_connection_failure(fault)):
                raise
            log.warning("a page could not be shown: %s", fault)
            return _told(503, "Not now", "The server cannot reach its database. Try again in a moment.")

    return wrapped


async def _shown(provider: Sandbox, page: SandboxPage) -> Response:
    dispute = await provider.find_dispute_status(page)
    text = pages.render_payment(page, token=provider.build_form_token(page.reference), dispute=dispute)
    return HTMLResponse(text, headers=PAGE_HEADERS)


def _no_payment() -> Response:
    return _told(404, "There is no such payment", "Begin a top-up, and follow the address that it gives.")


def _told(status: int, title: str, text: str) -> Response:
    return HTMLResponse(pages.render_message(title, text), status_code=status, headers=PAGE_HEADERS)


def _said(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status)
