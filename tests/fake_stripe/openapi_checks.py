"""Checks of requests and replies against Stripe's published OpenAPI description.

`stripe_openapi_excerpt.json` is the part of the description about the calls of the fake, made by `openapi_excerpt`. It
describes API version 2022-11-15, the newest in a package; `SINCE` has the parameters of later versions that the product
uses. Replies may have fields that it does not describe: `sdk_type_checks` checks those.
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
"""The objects that the fake sends, by their names in the description."""

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
        "hooks": {
            "type": "object",
            "properties": {
                "inputs": {
                    "type": "object",
                    "properties": {"tax": {"type": "object", "properties": {"calculation": {"type": "string"}}}},
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
    },
}
"""Parameters that are newer than the description. The SDK's types have each of them."""

NEWER: Final = {("POST", "/v1/tax/calculations")}
"""Calls that are newer than the description. Only the SDK's types are checked."""

_WRITTEN: Final = {
    "boolean": re.compile("true|false"),
    "integer": re.compile("-?[0-9]+"),
    "number": re.compile(r"-?[0-9]+(\.[0-9]+)?"),
}
"""How forms encode values that are no strings."""


class OpenApiMismatch(AssertionError):
    """A request, reply or event that differs from Stripe's description."""


def check_request(method: str, path: str, form: Mapping[str, Any]) -> None:
    """Check a decoded form, whose values are strings. Raises: OpenApiMismatch: Stripe would reject it."""
    if (method, path) not in NEWER:
        _check(form, _request_schema(method, path), "request", written=True)


def check_reply(method: str, path: str, status: int, reply: Json) -> None:
    """Check a reply. Raises: OpenApiMismatch: Stripe answers this call differently."""
    if (method, path) in NEWER:
        return
    responses = excerpt()["paths"][path][method.lower()]["responses"]
    described = responses.get(str(status), responses["default"])
    _check(reply, described["content"]["application/json"]["schema"], f"reply {status}")


def check_object(item: Json, name: str | None = None) -> None:
    """Check an object. `name`: of its schema; None: its `object` field. Raises: OpenApiMismatch."""
    name = name or item["object"]
    _check(item, {"$ref": f"#/components/schemas/{name}"}, name)


def check_event(event: Json) -> None:
    """Check an event and its object. Raises: OpenApiMismatch."""
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
    """A value of a form in the type of its schema. A string that is not of this type stays one and fails the check."""
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
    """The excerpt, as JSON."""
    found: Json = json.loads(EXCERPT.read_text())
    for schema in _schemas(found):
        _allow_null(schema)
    return found


def _allow_null(schema: Json) -> None:
    """Allow null explicitly: the library supports `nullable` only beside `type`, and not in enumerations."""
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
