"""The fake's checks against Stripe's OpenAPI description: unknown requests, replies and events are rejected."""

from typing import Any

import pytest
from stripe import params

from tests.fake_stripe import objects, openapi_checks
from tests.fake_stripe.openapi_checks import (
    NEWER,
    SINCE,
    OpenApiMismatch,
    check_event,
    check_object,
    check_reply,
    check_request,
)
from tests.fake_stripe.server import CALLS

REFUND = {"payment_intent": "pi_1", "amount": "500", "metadata": {"reference": "r-1"}}
PARAMETERS = {
    ("POST", "/v1/checkout/sessions"): params.checkout.SessionCreateParams,
    ("POST", "/v1/payment_intents"): params.PaymentIntentCreateParams,
}


def build_dispute(**known: Any) -> objects.Json:
    return objects.dispute(
        id="du_1", created=1, amount=5, currency="usd", charge="ch_1", payment_intent="pi_1", **known
    )


def test_every_call_of_the_fake_is_in_the_description() -> None:
    check_request("POST", "/v1/refunds", REFUND)
    described = openapi_checks.excerpt()["paths"]
    assert {(call.method, call.path) for call in CALLS} - NEWER == {
        (method.upper(), path) for path, methods in described.items() for method in methods
    }


@pytest.mark.parametrize(
    ("path", "form", "why"),
    [
        ("/v1/refunds", REFUND | {"colour": "red"}, "'colour' was unexpected"),
        ("/v1/refunds", REFUND | {"amount": "5.5"}, "request.amount: '5.5' is not of type 'integer'"),
        ("/v1/refunds", REFUND | {"amount": "five"}, "request.amount: 'five' is not of type 'integer'"),
        ("/v1/refunds", REFUND | {"reason": "boredom"}, "request.reason: 'boredom' is not one of"),
        ("/v1/payment_intents", {"amount": "500"}, "request: 'currency' is a required property"),
        ("/v1/billing_portal/sessions", {"customer": ["cus_1"]}, r"request.customer: \['cus_1'\] is not of type"),
    ],
)
def test_a_request_that_stripe_would_reject_is_rejected(path: str, form: dict[str, Any], why: str) -> None:
    with pytest.raises(OpenApiMismatch, match=why):
        check_request("POST", path, form)


def test_a_query_with_an_unknown_parameter_is_rejected() -> None:
    check_request("GET", "/v1/refunds", {"payment_intent": "pi_1", "limit": "100"})
    with pytest.raises(OpenApiMismatch, match="'colour' was unexpected"):
        check_request("GET", "/v1/refunds", {"payment_intent": "pi_1", "colour": "red"})
    with pytest.raises(OpenApiMismatch, match=r"request\.limit: 'many' is not of type 'integer'"):
        check_request("GET", "/v1/refunds", {"payment_intent": "pi_1", "limit": "many"})


def test_a_reply_without_a_required_field_is_rejected() -> None:
    refund = {"id": "re_1", "object": "refund", "amount": 5, "currency": "usd", "created": 1, "status": "succeeded"}
    check_reply("POST", "/v1/refunds", 200, refund)
    with pytest.raises(OpenApiMismatch, match="reply 200: 'amount' is a required property"):
        check_reply("POST", "/v1/refunds", 200, {name: refund[name] for name in refund if name != "amount"})
    with pytest.raises(OpenApiMismatch, match=r"reply 200\.amount: '5' is not of type 'integer'"):
        check_reply("POST", "/v1/refunds", 200, refund | {"amount": "5"})
    with pytest.raises(OpenApiMismatch, match=r"reply 200\.currency: None for not nullable"):
        check_reply("POST", "/v1/refunds", 200, refund | {"currency": None})


def test_a_reply_may_name_a_resource_but_not_contain_one_outside_the_excerpt() -> None:
    check_object(build_dispute())
    with pytest.raises(OpenApiMismatch, match=r"dispute\.balance_transactions\.0"):
        check_object(build_dispute() | {"balance_transactions": [{"id": "txn_1", "object": "balance_transaction"}]})


def test_an_error_of_another_form_is_rejected() -> None:
    check_reply("POST", "/v1/refunds", 402, objects.error_body("card_error", "card_declined", "Declined."))
    with pytest.raises(OpenApiMismatch, match="reply 404: 'error' is a required property"):
        check_reply("POST", "/v1/refunds", 404, {"message": "No such object."})
    with pytest.raises(OpenApiMismatch, match=r"reply 400\.error\.type: 'sulking' is not one of"):
        check_reply("POST", "/v1/refunds", 400, objects.error_body("sulking", "no", "No."))


def test_an_event_that_stripe_would_not_send_is_rejected() -> None:
    event = {
        "id": "evt_1", "object": "event", "type": "charge.dispute.created", "created": 1, "livemode": False,
        "api_version": None, "pending_webhooks": 1, "request": None, "data": {"object": build_dispute()},
    }  # fmt: skip
    check_event(event)
    with pytest.raises(OpenApiMismatch, match=r"dispute\.status: 'sulking' is not one of"):
        check_event(event | {"data": {"object": build_dispute(status="sulking")}})
    with pytest.raises(OpenApiMismatch, match="event: 'pending_webhooks' is a required property"):
        check_event({name: event[name] for name in event if name != "pending_webhooks"})


def test_additions_to_the_description_are_known_to_the_sdk() -> None:
    known = {call: set(properties) <= set(PARAMETERS[call].__annotations__) for call, properties in SINCE.items()}
    assert known == dict.fromkeys(SINCE, True)
