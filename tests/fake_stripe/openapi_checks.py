"""Comparing requests and replies with Stripe's published OpenAPI description.

`stripe_openapi_excerpt.json` holds the part of it that is about the calls of the stand-in (`excerpting` cuts it out).
The description is that of API version 2022-11-15, the newest that a package carries; `SINCE` names what the calls of
the product use of later versions. Replies may have fields that it does not know: those are for `shapes`, which goes by
the types of the SDK that is installed, to refuse.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from openapi_schema_validator import OAS30Validator

from tests.fake_stripe.objects import Json

EXCERPT: Final = Path(__file__).with_name("stripe_openapi_excerpt.json")

SENT: Final = (
    "billing_portal.session",
    "charge",
    "checkout.session",
    "customer",
    "dispute",
    "error",
    "event",
    "payment_intent",
    "payment_method",
    "refund",
    "tax_rate",
)
"""The objects that the stand-in sends, as the description names them."""

SINCE: Final[Mapping[tuple[str, str], Json]] = {
    ("POST", "/v1/checkout/sessions"): {
        "adaptive_pricing": {
            "type": "object",
            "properties": {"enabled": {"type": "boolean"}},
            "additionalProperties": False,
        },
    },
    ("POST", "/v1/payment_intents"): {
        "allowed_payment_method_types": {"type": "array", "items": {"type": "string", "enum": ["card"]}},
    },
}
"""Parameters of calls that came after the description. The SDK's types know each of them."""

_WRITTEN: Final = {
    "boolean": re.compile("true|false"),
    "integer": re.compile("-?[0-9]+"),
    "number": re.compile(r"-?[0-9]+(\.[0-9]+)?"),
}
"""How a form writes what is no text."""


class OpenApiMismatch(AssertionError):
    """What was sent is not what Stripe's description says."""


def check_request(method: str, path: str, form: Mapping[str, Any]) -> None:
    """`form`: as it was decoded, all text. Raises: Undescribed: Stripe would refuse it."""
    _check(form, _request_schema(method, path), "request", written=True)


def check_reply(method: str, path: str, status: int, reply: Json) -> None:
    """Raises: Undescribed: Stripe answers this call otherwise."""
    responses = excerpt()["paths"][path][method.lower()]["responses"]
    described = responses.get(str(status), responses["default"])
    _check(reply, described["content"]["application/json"]["schema"], f"reply {status}")


def check_object(thing: Json, name: str | None = None) -> None:
    """`name`: of its schema; None: what the object says it is. Raises: Undescribed: Stripe has no such object."""
    name = name or thing["object"]
    _check(thing, {"$ref": f"#/components/schemas/{name}"}, name)


def check_event(event: Json) -> None:
    """Raises: Undescribed: Stripe sends no such event."""
    check_object(event)
    check_object(event["data"]["object"])


def _check(value: Any, schema: Json, path: str, *, written: bool = False) -> None:
    found = _typed(value, schema) if written else value
    # Only the first: where one of several forms would do, the rest follows from it.
    for error in _validator(json.dumps(schema)).iter_errors(found):
        raise OpenApiMismatch(f"{'.'.join([path, *map(str, error.absolute_path)])}: {error.message[:300]}")


@cache
def _validator(schema: str) -> OAS30Validator:
    return OAS30Validator(json.loads(schema) | {"components": excerpt()["components"]})


@cache
def _request_schema(method: str, path: str) -> Json:
    operation = excerpt()["paths"][path][method.lower()]
    if method == "POST":
        described: Json = operation["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
        return described | {"properties": described.get("properties", {}) | SINCE.get((method, path), {})}
    asked = [one for one in operation["parameters"] if one["in"] == "query"]
    return {
        "type": "object",
        "properties": {one["name"]: one["schema"] for one in asked},
        "required": [one["name"] for one in asked if one.get("required")],
        "additionalProperties": False,
    }


def _typed(value: Any, schema: Json) -> Any:
    """What a form has written, as the types that its schema names; what is none of them stays text, and is refused."""
    for one in schema.get("anyOf", ()):
        found = _typed(value, one)
        if _validator(json.dumps(one)).is_valid(found):
            return found
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        inner = others if isinstance(others, dict) else {}
        return {name: _typed(one, properties.get(name, inner)) for name, one in value.items()}
    if isinstance(value, list):
        return [_typed(one, schema.get("items", {})) for one in value]
    pattern = _WRITTEN.get(schema.get("type", ""))
    return json.loads(value) if pattern is not None and pattern.fullmatch(value) else value


@cache
def excerpt() -> Json:
    """The part of the description that is about the stand-in's calls."""
    found: Json = json.loads(EXCERPT.read_text())
    for schema in _schemas(found):
        _allow_null(schema)
    return found


def _allow_null(schema: Json) -> None:
    """The library takes `nullable` beside `type` only, and not where values are listed."""
    if schema.get("nullable") is True and "anyOf" in schema:
        schema["anyOf"] = [*schema["anyOf"], {"enum": [None], "nullable": True}]
    if schema.get("nullable") is True and "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]


def _schemas(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        yield node
        for one in node.values():
            yield from _schemas(one)
    elif isinstance(node, list):
        for one in node:
            yield from _schemas(one)
