"""The HTTP server of the fake: decodes forms as Stripe does, checks requests and replies, answers from its state."""

import copy
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import stripe
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from stripe import params

from tests.fake_stripe import openapi_checks, sdk_type_checks
from tests.fake_stripe.objects import Json
from tests.fake_stripe.state import FakeStripe, StripeError

KEY = "sk_test_fake"
SECRET = "whsec_of_the_fake"


@dataclass(frozen=True)
class Call:
    """A call that the fake supports: its parameters as Stripe describes them, and its effect."""

    method: str
    path: str
    parameters: object
    do: Callable[[FakeStripe, Request, Json], Json]


def _page(fake: FakeStripe, items: list[Json], form: Json, url: str) -> Json:
    """A page of a list, by `limit` and `starting_after`."""
    ids = [item["id"] for item in items]
    start = ids.index(form["starting_after"]) + 1 if "starting_after" in form else 0
    limit = int(form.get("limit", 10))
    found = [
        _expanded(fake, item, [one.removeprefix("data.") for one in form.get("expand", [])])
        for item in items[start : start + limit]
    ]
    return {"object": "list", "data": found, "has_more": start + limit < len(items), "url": url}


def _expanded(fake: FakeStripe, item: Json, paths: list[str]) -> Json:
    found = copy.deepcopy(item)
    for path in paths:
        first, _, rest = path.partition(".")
        if isinstance(found.get(first), str):
            found[first] = _expanded(fake, fake.get(found[first]), [rest] if rest else [])
        elif first == "total_details" and rest == "breakdown":
            found[first]["breakdown"] = {"discounts": [], "taxes": _taxes(found)}
    return found


def _taxes(session: Json) -> list[Json]:
    amount = session["total_details"]["amount_tax"]
    rate = {
        "id": "txr_1",
        "object": "tax_rate",
        "active": True,
        "created": 1,
        "display_name": "VAT",
        "inclusive": False,
        "livemode": False,
        "percentage": 20.0,
    }
    return [{"amount": amount, "rate": rate, "taxable_amount": session["amount_subtotal"]}] if amount else []


def _intents(fake: FakeStripe, request: Request, form: Json) -> Json:
    made = form.get("created", {})
    found = [
        one
        for one in fake.list_objects("payment_intent")
        if int(made.get("gte", 0)) <= one["created"] <= int(made.get("lte", 2**40))
    ]
    return _page(fake, found, form, "/v1/payment_intents")


def _refunds(fake: FakeStripe, request: Request, form: Json) -> Json:
    found = [one for one in fake.list_objects("refund") if one["payment_intent"] == form["payment_intent"]]
    return _page(fake, found, form, "/v1/refunds")


def _one(fake: FakeStripe, request: Request, form: Json) -> Json:
    return _expanded(fake, fake.get(request.path_params["id"]), form.get("expand", []))


CALLS = [
    Call("POST", "/v1/customers", params.CustomerCreateParams, lambda fake, _, form: fake.create_customer(form)),
    Call(
        "POST",
        "/v1/checkout/sessions",
        params.checkout.SessionCreateParams,
        lambda fake, _, form: fake.create_session(form),
    ),
    Call("GET", "/v1/checkout/sessions/{id}", params.checkout.SessionRetrieveParams, _one),
    Call(
        "POST",
        "/v1/payment_intents",
        params.PaymentIntentCreateParams,
        lambda fake, _, form: fake.create_intent(form),
    ),
    Call("GET", "/v1/payment_intents", params.PaymentIntentListParams, _intents),
    Call("GET", "/v1/payment_intents/{id}", params.PaymentIntentRetrieveParams, _one),
    Call(
        "POST",
        "/v1/payment_intents/{id}/confirm",
        params.PaymentIntentConfirmParams,
        lambda fake, request, form: fake.confirm_intent(request.path_params["id"], form),
    ),
    Call(
        "POST",
        "/v1/tax/calculations",
        params.tax.CalculationCreateParams,
        lambda fake, _, form: fake.calculate_tax(form),
    ),
    Call("POST", "/v1/refunds", params.RefundCreateParams, lambda fake, _, form: fake.create_refund(form)),
    Call("GET", "/v1/refunds", params.RefundListParams, _refunds),
    Call(
        "POST",
        "/v1/billing_portal/sessions",
        params.billing_portal.SessionCreateParams,
        lambda fake, _, form: fake.create_portal(form),
    ),
]


def decode_form(text: str) -> Json:
    """A form as Stripe reads it: `a[b][0]=c` is {"a": {"b": ["c"]}}."""
    found: Json = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        first, *rest = re.findall(r"[^\[\]]+", name)
        place, steps = found, [first, *rest]
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = value
    return {name: _listed(value) for name, value in found.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _listed(one) for name, one in value.items()}
    return list(inner.values()) if inner and all(name.isdigit() for name in inner) else inner


def sign_event(event: Json, *, secret: str = SECRET, at: int | None = None) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the webhook of an event, signed by the SDK's own code."""
    body = json.dumps(event, indent=2)
    header = stripe.WebhookSignature.generate_signature_header(body, secret, at or int(time.time()))
    return body.encode(), {"Content-Type": "application/json", "Stripe-Signature": header}


class LostReply(Response):
    """A reply that is cut off: the caller does not learn the result of its call."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


def _execute(fake: FakeStripe, call: Call, request: Request, form: Json, key: str | None) -> tuple[int, Json]:
    try:
        return fake.run_idempotent(key, request.url.path, form, lambda form: call.do(fake, request, form))
    except StripeError as error:
        return error.status, error.body


def _endpoint(fake: FakeStripe, call: Call) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        form = decode_form((await request.body()).decode() if call.method == "POST" else request.url.query)
        fake.calls.append((call.method, request.url.path, form))
        if fake.failing_calls:
            fake.failing_calls -= 1
            reply: Json = {"error": {"type": "api_error", "message": "Not now."}}
            status = 500
            openapi_checks.check_reply(call.method, call.path, status, reply)
            return JSONResponse(reply, status_code=status)
        try:
            sdk_type_checks.check_request(form, call.parameters)
            openapi_checks.check_request(call.method, call.path, form)
            key = request.headers.get("idempotency-key") if call.method == "POST" else None
            status, reply = _execute(fake, call, request, form, key)
            if status == 200:
                (sdk_type_checks.check_list if reply["object"] == "list" else sdk_type_checks.check_object)(reply)
            openapi_checks.check_reply(call.method, call.path, status, reply)
        except (sdk_type_checks.SdkTypeMismatch, openapi_checks.OpenApiMismatch) as error:
            fake.objects[f"rejected {len(fake.objects)}"] = {"object": "rejected", "why": str(error)}
            status, reply = 400, {"error": {"type": "invalid_request_error", "message": str(error)}}
        if fake.lost_replies:
            fake.lost_replies -= 1
            return LostReply()
        return JSONResponse(reply, status_code=status)

    return answer


@contextmanager
def serve_fake_stripe() -> Iterator[FakeStripe]:
    """Serve a fake on a free port (`FakeStripe.url`). At the end, fail if a request or reply was rejected."""
    fake = FakeStripe()
    routes = [Route(call.path, _endpoint(fake, call), methods=[call.method]) for call in CALLS]
    with socket.create_server(("127.0.0.1", 0)) as here:
        fake.url = f"http://127.0.0.1:{here.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [here]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield fake
        finally:
            server.should_exit = True
            thread.join(10)
    found = [item["why"] for item in fake.list_objects("rejected")]
    assert found == [], found
