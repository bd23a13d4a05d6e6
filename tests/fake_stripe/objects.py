"""Default fields of Stripe's objects: those that a real reply has and the product does not read."""

from typing import Any

Json = dict[str, Any]


def session(**known: Any) -> Json:
    return {
        "object": "checkout.session",
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "livemode": False,
        "mode": "payment",
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "shipping_options": [],
        "status": "open",
        "payment_intent": None,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
    } | known


def intent(**known: Any) -> Json:
    return {
        "object": "payment_intent",
        "amount_capturable": 0,
        "amount_received": 0,
        "capture_method": "automatic_async",
        "confirmation_method": "automatic",
        "livemode": False,
        "metadata": {},
        "payment_method_types": ["card"],
        "last_payment_error": None,
        "next_action": None,
        "setup_future_usage": None,
        "payment_method": None,
        "customer": None,
        "latest_charge": None,
        "description": None,
    } | known


def card(**known: Any) -> Json:
    return {
        "object": "payment_method",
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "livemode": False,
        "type": "card",
        "metadata": {},
        "customer": None,
        "card": {
            "brand": "visa",
            "last4": "4242",
            "checks": None,
            "country": "US",
            "exp_month": 12,
            "exp_year": 2034,
            "funding": "credit",
            "display_brand": "visa",
            "generated_from": None,
            "networks": None,
            "three_d_secure_usage": None,
            "wallet": None,
            "regulated_status": None,
            "fingerprint": None,
        },
    } | known


def charge(**known: Any) -> Json:
    paid = {
        "brand": "visa",
        "last4": "4242",
        "checks": None,
        "country": "US",
        "exp_month": 12,
        "exp_year": 2034,
        "funding": "credit",
        "amount_authorized": None,
        "authorization_code": None,
        "installments": None,
        "mandate": None,
        "network": "visa",
        "three_d_secure": None,
        "wallet": None,
    }
    return {
        "object": "charge",
        "amount_refunded": 0,
        "billing_details": {"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        "captured": True,
        "disputed": False,
        "livemode": False,
        "metadata": {},
        "paid": True,
        "refunded": False,
        "status": "succeeded",
        "payment_method_details": {"type": "card", "card": paid},
    } | known


def dispute(**known: Any) -> Json:
    return {
        "object": "dispute",
        "balance_transactions": [],
        "enhanced_eligibility_types": [],
        "evidence": {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": None,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "reason": "fraudulent",
        "status": "needs_response",
    } | known


def tax_calculation(**known: Any) -> Json:
    return {
        "object": "tax.calculation",
        "customer_details": {
            "address": None, "address_source": None, "ip_address": None, "tax_ids": [], "taxability_override": "none",
        },
        "expires_at": None,
        "line_items": None,
        "livemode": False,
        "ship_from_details": None,
        "shipping_cost": None,
        "tax_amount_inclusive": 0,
        "tax_breakdown": [],
        "tax_date": 1,
    } | known  # fmt: skip


def error_body(kind: str, code: str, message: str, **more: Any) -> Json:
    return {"error": {"type": kind, "code": code, "message": message} | more}
