"""The routes of payments: notices of the provider, and the sandbox's own pages.

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

from app import database
from app.errors import Unavailable
from app.topups import pages, sandbox, settling
from app.topups.provider import NoticeRefused, PaymentProvider
from app.topups.rules import PaymentState
from app.topups.sandbox import Sandbox, SandboxPage

NOTICE_LIMIT_BYTES: Final = 65_536
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

Answer = Callable[[Request], Awaitable[Response]]


@dataclass(eq=False)
class BodyRefused(Exception):
    """A body that is longer than it may be, or was cut off."""

    status: int
    text: str


def routes(provider: PaymentProvider | None) -> list[BaseRoute]:
    """`POST /webhooks/<provider>`, and the sandbox's pages where the sandbox is the provider; nothing without one."""
    if provider is None:
        return []
    path = f"/webhooks/{provider.name}"
    found: list[BaseRoute] = [Route(path, notices(provider), methods=["POST"])]
    if isinstance(provider, Sandbox):
        page = f"{sandbox.PAGE_PATH}/{{reference}}"
        found += [
            Route(page, _kindly(payment_page(provider)), methods=["GET"]),
            Route(page, _kindly(payment_form(provider, notify_path=path)), methods=["POST"]),
        ]
    return found


def notices(provider: PaymentProvider) -> Answer:
    """The webhook: raw body in, the provider verifies, `settling` settles, 200 out."""

    async def answer(request: Request) -> Response:
        try:
            raw_body = await _body(request, limit_bytes=NOTICE_LIMIT_BYTES)
            event = await provider.verify(raw_body, request.headers)
        except BodyRefused as refusal:
            return _said(refusal.status, refusal.text)
        except NoticeRefused as refusal:
            return _said(400, refusal.reason)
        except Unavailable as refusal:
            log.error("a payment notice was turned away: %s", refusal)
            return _said(503, str(refusal))
        if event is None:
            return _said(200, "Thank you; this kind of notice changes nothing here.")
        try:
            outcome = await settling.settle(event)
        except Exception:
            # Whatever it was, the notice must not be lost: it waits in our inbox, and the provider sends it again.
            log.exception("payment notice %s could not be settled", event.event_id)
            return _said(503, "The notice could not be dealt with now: send it again.")
        return JSONResponse({"outcome": outcome})

    return answer


def payment_page(provider: Sandbox) -> Answer:
    """The sandbox's page of one payment."""

    async def answer(request: Request) -> Response:
        page = await provider.find(request.path_params["reference"])
        return _no_payment() if page is None else _shown(provider, page)

    return answer


def payment_form(provider: Sandbox, *, notify_path: str) -> Answer:
    """What the page's buttons send: pay, decline, or send the notice again; then back to where the buyer came from."""
    decisions = {"pay": PaymentState.PAID, "decline": PaymentState.DECLINED, "resend": None}

    async def answer(request: Request) -> Response:
        page = await provider.find(request.path_params["reference"])
        if page is None:
            return _no_payment()
        try:
            fields = parse_qs((await _body(request, limit_bytes=FORM_LIMIT_BYTES)).decode("latin-1"))
        except BodyRefused as refusal:
            return _told(refusal.status, "Not sent by this page", refusal.text)
        [token, decision] = [fields.get(name, [""])[0] for name in ("token", "decision")]
        if not provider.knows_form_token(page.reference, token):
            return _told(403, "Not sent by this page", "Open the payment page again and use its buttons.")
        if decision not in decisions:
            return _told(400, "Nothing was chosen", "Open the payment page again and choose one of its buttons.")
        if (state := decisions[decision]) is not None:
            page = await provider.decide(page, state)
        if page.state is not PaymentState.OPEN:
            await _notify(request, provider, page, path=notify_path)
        # Back to the buyer's own page, exactly as it was given; to this one where there is none.
        onward = page.return_url if page.return_url is not None and state is not None else request.url.path
        return Response(status_code=303, headers={"Location": onward} | PAGE_HEADERS)

    return answer


async def _notify(request: Request, provider: Sandbox, page: SandboxPage, *, path: str) -> None:
    """Send the notice to this server's own webhook, signed and in full, as a provider would.

    It may fail without harm: the return page asks (`confirmTopUp`), and the payment's page sends it again.
    """
    raw_body, headers = provider.notice(page)
    transport = httpx.ASGITransport(app=request.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=provider.address) as client:
        answer = await client.post(path, content=raw_body, headers=headers)
    if answer.status_code != 200:
        log.warning("the sandbox's notice of payment %s was answered with %s", page.provider_ref, answer.status_code)


async def _body(request: Request, *, limit_bytes: int) -> bytes:
    """The raw body. Raises: BodyRefused, before more than the limit has been kept."""
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                raise BodyRefused(413, f"At most {limit_bytes:,} bytes are taken.")
    except ClientDisconnect:
        raise BodyRefused(400, "The request was cut off.") from None
    return bytes(body)


def _kindly(answer: Answer) -> Answer:
    """A page's answer that says so in plain words when the database is out of reach."""

    async def wrapped(request: Request) -> Response:
        try:
            return await answer(request)
        except Exception as fault:
            if not (isinstance(fault, Unavailable) or database.is_lost(fault)):
                raise
            log.warning("a sandbox page could not be shown: %s", fault)
            return _told(503, "Not now", "The server cannot reach its database. Try again in a moment.")

    return wrapped


def _shown(provider: Sandbox, page: SandboxPage) -> Response:
    return HTMLResponse(pages.payment(page, token=provider.form_token(page.reference)), headers=PAGE_HEADERS)


def _no_payment() -> Response:
    return _told(404, "There is no such payment", "Begin a top-up, and follow the address that it gives.")


def _told(status: int, title: str, text: str) -> Response:
    return HTMLResponse(pages.notice(title, text), status_code=status, headers=PAGE_HEADERS)


def _said(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status)
