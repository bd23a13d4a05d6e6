"""HTTP routes of payments: provider webhooks, the sandbox's pages, and receipts.

The response to a webhook is 200 if the event is stored and decided (settled, parked or waiting), 400 if it does not
come from the provider, and 503 if it cannot be handled now. After a 503 the provider sends it again.
"""

import logging
import re
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
from app.topups import queries, receipts, settlement
from app.topups.models import SandboxPayment
from app.topups.provider import DisputeStatus, InvalidProviderEvent, PaymentProvider
from app.topups.rules import PaymentStatus, find_return_url_problems
from app.topups.sandbox import pages, store
from app.topups.sandbox.provider import PAYMENT_PATH, PORTAL_PATH, Sandbox
from app.topups.sandbox.store import CardBehaviour

EVENT_LIMIT_BYTES: Final = 8 * 1_024 * 1_024
"""The largest events are updates of Stripe disputes: they contain the evidence (at most 150,000 characters) before and
after the update. 300,000 characters of up to 12 bytes (JSON escapes) are 3.6 MB."""
FORM_LIMIT_BYTES: Final = 4_096

PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    # There is no form-action, because browsers also apply it to the redirect after a form, and the return page is on
    # another site.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_PATH_PARAMETER: Final = re.compile(r"[!-~]{1,255}")
"""References, customer ids and tokens consist of visible ASCII characters."""

_PAYMENT_DECISIONS: Final = {"pay": PaymentStatus.PAID, "decline": PaymentStatus.DECLINED, "resend": None}
_DISPUTE_DECISIONS: Final = {"dispute": DisputeStatus.OPEN, "win": DisputeStatus.WON, "lose": DisputeStatus.LOST}
"""The values that the buttons of the sandbox's page send."""

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(eq=False)
class BodyRejected(Exception):
    """A request body that is too long or incomplete."""

    status: int
    text: str


def payment_routes(provider: PaymentProvider | None, *, seller: str | None = None) -> list[BaseRoute]:
    """Return `POST /webhooks/<provider>`, receipts, and the sandbox's pages if the sandbox is the provider.

    Without a provider there are only receipts, because those of earlier purchases must remain available. `seller` is
    the name and address on receipts, with lines separated by semicolons.
    """
    routes: list[BaseRoute] = [
        Route(
            f"{receipts.PATH}/{{token}}", _page_endpoint(show_receipt_page(seller), _receipt_not_found), methods=["GET"]
        )
    ]
    if provider is None:
        return routes
    webhook_path = f"/webhooks/{provider.name}"
    routes.append(Route(webhook_path, webhook_endpoint(provider), methods=["POST"]))
    if isinstance(provider, Sandbox):
        path = f"{PAYMENT_PATH}/{{reference}}"
        form = submit_payment_form(provider, webhook_path=webhook_path)
        routes += [
            Route(path, _page_endpoint(show_payment_page(provider), _payment_not_found), methods=["GET"]),
            Route(path, _page_endpoint(form, _payment_not_found), methods=["POST"]),
            Route(
                f"{PORTAL_PATH}/{{customer_ref}}",
                _page_endpoint(show_portal_page, _customer_not_found),
                methods=["GET"],
            ),
        ]
    return routes


def webhook_endpoint(provider: PaymentProvider) -> Endpoint:
    """Return an endpoint that verifies the signature over the raw body, then stores and settles the event."""

    async def endpoint(request: Request) -> Response:
        try:
            raw_body = await _read_body(request, limit_bytes=EVENT_LIMIT_BYTES)
            event = await provider.verify_event(raw_body, request.headers)
        except BodyRejected as error:
            return _message(error.status, error.text)
        except InvalidProviderEvent as error:
            return _message(400, error.reason)
        except Unavailable as error:
            log.error("a provider event was refused: %s", error)
            return _message(503, str(error))
        if event is None:
            return _message(200, "Events of this type are ignored.")
        try:
            outcome = await settlement.settle(event)
        except Exception as error:
            # The event is in the inbox and will be retried. In addition, the status 503 makes the provider send it
            # again.
            failures.log_failure(log, error, "provider event %s could not be settled", event.event_id)
            return _message(503, "The event could not be handled now: send it again.")
        return JSONResponse({"outcome": outcome})

    return endpoint


def show_payment_page(provider: Sandbox) -> Endpoint:
    """Return an endpoint for the sandbox's page of one payment."""

    async def endpoint(request: Request) -> Response:
        payment = await provider.find_payment_page(request.path_params["reference"])
        return await _render_payment(provider, payment) if payment is not None else _payment_not_found()

    return endpoint


def submit_payment_form(provider: Sandbox, *, webhook_path: str) -> Endpoint:
    """Return an endpoint for the form on the sandbox's payment page.

    The form pays, declines, opens or decides a dispute, or sends the last event again. Its event is sent to the
    webhook. Then the browser is redirected to the return URL, or back to the page.
    """

    async def endpoint(request: Request) -> Response:
        payment = await provider.find_payment_page(request.path_params["reference"])
        if payment is None:
            return _payment_not_found()
        try:
            fields = parse_qs((await _read_body(request, limit_bytes=FORM_LIMIT_BYTES)).decode("latin-1"))
        except BodyRejected as error:
            return _message_page(error.status, "Invalid form", error.text)
        [token, decision, card] = [fields.get(name, [""])[0] for name in ("token", "decision", "card")]
        if not provider.check_form_token(payment.reference, token):
            return _message_page(403, "Invalid form token", "Open the payment page again and use its buttons.")
        if decision in _DISPUTE_DECISIONS and payment.status == PaymentStatus.PAID:
            dispute = await provider.decide_dispute(payment, _DISPUTE_DECISIONS[decision])
            await _send_event(request, provider, provider.sign_event(dispute), path=webhook_path)
            return _redirect(request.url.path)
        if decision not in _PAYMENT_DECISIONS:
            return _message_page(400, "No decision", "Open the payment page again and choose one of its buttons.")
        if (status := _PAYMENT_DECISIONS[decision]) is not None:
            behaviour = CardBehaviour(card) if card in list(CardBehaviour) else CardBehaviour.PAYS
            payment = await provider.decide_payment(payment, status, behaviour=behaviour)
        if payment.status != PaymentStatus.OPEN:
            event = provider.sign_event(await provider.describe_payment(payment))
            await _send_event(request, provider, event, path=webhook_path)
        has_decided = status is not None
        return _redirect(payment.return_url if has_decided and payment.return_url is not None else request.url.path)

    return endpoint


def show_receipt_page(seller: str | None) -> Endpoint:
    """Return an endpoint for the receipt in a signed link."""

    async def endpoint(request: Request) -> Response:
        reference = receipts.parse_token(request.path_params["token"])
        top_up = await queries.find_top_up(*reference) if reference is not None else None
        receipt = receipts.build_receipt(top_up) if top_up is not None else None
        if receipt is None:
            return _receipt_not_found()
        return HTMLResponse(receipts.render_receipt(receipt, seller), headers=PAGE_HEADERS)

    return endpoint


async def show_portal_page(request: Request) -> Response:
    """Show the sandbox's billing portal: a customer's cards, with a link back to the return URL."""
    labels = await store.list_card_labels(request.path_params["customer_ref"])
    return_url = request.query_params.get("return")
    page = pages.render_portal(labels, None if find_return_url_problems(return_url) else return_url)
    return HTMLResponse(page, headers=PAGE_HEADERS)


async def _send_event(request: Request, provider: Sandbox, event: tuple[bytes, dict[str, str]], *, path: str) -> None:
    """Send a signed event to this server's own webhook, as a provider would.

    A failure is only logged, because `confirmTopUp` queries the sandbox, and the page can send the event again.
    """
    raw_body, headers = event
    transport = httpx.ASGITransport(app=request.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=provider.address) as client:
        response = await client.post(path, content=raw_body, headers=headers)
    if response.status_code != 200:
        log.warning("the sandbox's event to %s was answered with %s", path, response.status_code)


async def _read_body(request: Request, *, limit_bytes: int) -> bytes:
    """Return the raw body. Raises: BodyRejected: it is too long or incomplete.

    Reading stops when the body exceeds `limit_bytes`.
    """
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit_bytes:
                raise BodyRejected(413, f"The body may have at most {limit_bytes:,} bytes.")
    except ClientDisconnect:
        raise BodyRejected(400, "The request is incomplete.") from None
    return bytes(body)


def _page_endpoint(endpoint: Endpoint, not_found: Callable[[], Response]) -> Endpoint:
    """Return the endpoint with pages for two errors.

    If a path parameter contains characters that links of this server never contain, the response is `not_found()`. (The
    database would fail to compare U+0000 with a column.) If the database cannot be reached, the status is 503.
    """

    async def wrapped(request: Request) -> Response:
        if not all(map(_PATH_PARAMETER.fullmatch, request.path_params.values())):
            return not_found()
        try:
            return await endpoint(request)
        except Exception as error:
            if not (isinstance(error, Unavailable) or failures.is_database_failure(error)):
                raise
            log.warning("a page could not be shown: %s", error)
            return _message_page(503, "Unavailable", "The server cannot reach its database. Try again in a moment.")

    return wrapped


async def _render_payment(provider: Sandbox, payment: SandboxPayment) -> Response:
    dispute = await provider.find_dispute_status(payment)
    token = provider.build_form_token(payment.reference)
    return HTMLResponse(pages.render_payment(payment, token=token, dispute=dispute), headers=PAGE_HEADERS)


def _payment_not_found() -> Response:
    return _message_page(404, "Payment not found", "Begin a top-up and open its paymentUrl.")


def _customer_not_found() -> Response:
    return _message_page(404, "Customer not found", "Open the billing portal from the page of your account.")


def _receipt_not_found() -> Response:
    return _message_page(404, "Receipt not found", "Take the address from your account's list of top-ups.")


def _message_page(status: int, title: str, text: str) -> Response:
    return HTMLResponse(pages.render_message(title, text), status_code=status, headers=PAGE_HEADERS)


def _redirect(url: str) -> Response:
    return Response(status_code=303, headers={"Location": url} | PAGE_HEADERS)


def _message(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status)
