"""Checks of JSON against the types that Stripe generates into its SDK.

`check_request` compares the decoded form of a request with the parameters of a call, `check_object` a reply or the
object of an event with its resource. For `Literal[...] | str` only the listed values are valid.
"""

import ast
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import Any, ForwardRef, Literal, get_args, get_origin

import stripe
import typing_extensions
from stripe import ListObject, StripeObject

OPTIONS = {"api_key", "stripe_version", "stripe_account", "stripe_context", "max_network_retries", "idempotency_key",
           "content_type", "headers"}  # fmt: skip
"""Options of the SDK that its types list among the parameters of a call; they are never sent."""

RESOURCES: dict[str, type[StripeObject]] = {
    "billing_portal.session": stripe.billing_portal.Session,
    "tax.calculation": stripe.tax.Calculation,
    "charge": stripe.Charge,
    "checkout.session": stripe.checkout.Session,
    "customer": stripe.Customer,
    "dispute": stripe.Dispute,
    "event": stripe.Event,
    "payment_intent": stripe.PaymentIntent,
    "payment_method": stripe.PaymentMethod,
    "refund": stripe.Refund,
}


WRAPPERS = (typing_extensions.NotRequired, typing_extensions.Required, typing.Annotated)
UNIONS = (typing.Union, types.UnionType)
WRITTEN = {
    bool: re.compile("true|false"),
    int: re.compile("-?[0-9]+"),
    float: re.compile(r"-?[0-9]+(\.[0-9]+)?"),
    Decimal: re.compile(r"-?[0-9]+(\.[0-9]+)?"),
}
"""How forms encode values that are no strings."""


class SdkTypeMismatch(AssertionError):
    """A request, reply or event that differs from the SDK's types."""


def check_request(values: Mapping[str, Any], parameters: object) -> None:
    """Check a decoded form. Raises: SdkTypeMismatch."""
    if found := list(_typed_dict(values, parameters, "request", written=True)):
        raise SdkTypeMismatch("; ".join(found))


def check_object(item: Mapping[str, Any], resource: type[StripeObject] | None = None) -> None:
    """Check an object. Raises: SdkTypeMismatch."""
    if found := list(_object(item, resource or RESOURCES[item["object"]], str(item.get("object")))):
        raise SdkTypeMismatch("; ".join(found))


def check_list(page: Mapping[str, Any]) -> None:
    """Check a page of a list. Raises: SdkTypeMismatch."""
    if set(page) != {"object", "data", "has_more", "url"} or page["object"] != "list":
        raise SdkTypeMismatch(f"a page has {sorted(page)}")
    for item in page["data"]:
        check_object(item)


def check_event(event: Mapping[str, Any]) -> None:
    """Check an event and its object. Raises: SdkTypeMismatch."""
    check_object(event, stripe.Event)
    check_object(event["data"]["object"])


def _problems(value: Any, hint: Any, home: str, path: str, *, written: bool) -> Iterator[str]:
    """The problems of a value. `written`: it comes from a form, as strings."""
    if not written and type(value) is hint:
        return
    if isinstance(hint, str | ForwardRef):
        hint, home = _resolved(hint if isinstance(hint, str) else hint.__forward_arg__, home)
    if get_origin(hint) is not None:
        yield from _generic(value, hint, home, path, written=written)
    elif typing_extensions.is_typeddict(hint):
        yield from _typed_dict(value, hint, path, written=written)
    elif inspect.isclass(hint) and issubclass(hint, StripeObject):
        yield from _object(value, hint, path)
    elif hint is not Any and not isinstance(hint, typing.TypeVar) and not _is_plain(value, hint, written=written):
        yield f"{path} is {value!r}, which is no {getattr(hint, '__name__', hint)}"


def _generic(value: Any, hint: Any, home: str, path: str, *, written: bool) -> Iterator[str]:
    origin, args = get_origin(hint), get_args(hint)
    if origin in WRAPPERS:
        yield from _problems(value, args[0], home, path, written=written)
    elif origin in UNIONS:
        yield from _one_of(value, args, home, path, written=written)
    elif origin is Literal:
        if value not in args:
            yield f"{path} is {value!r}, none of {list(args)[:8]}"
    elif origin is ListObject:
        check_list(value)
    else:
        yield from _contents(value, list if origin is list else dict, args[-1], home, path, written=written)


def _contents(
    value: Any, kind: type[list[Any] | dict[str, Any]], inner: Any, home: str, path: str, *, written: bool
) -> Iterator[str]:
    if not isinstance(value, kind):
        yield f"{path} is no {kind.__name__}"
        return
    inside: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in inside:
        yield from _problems(one, inner, home, f"{path}.{name}", written=written)


def _one_of(value: Any, args: tuple[Any, ...], home: str, path: str, *, written: bool) -> Iterator[str]:
    # The literal "" means that a value can be unset: it lists no values.
    named = [one for arg in args if get_origin(arg) is Literal for one in get_args(arg) if one]
    strict = [arg for arg in args if not (named and arg is str)]
    tried = [list(_problems(value, arg, home, path, written=written)) for arg in strict]
    if all(tried):
        yield tried[0][0]


def _typed_dict(value: Any, hint: Any, path: str, *, written: bool) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is no object"
        return
    known = {name: one for name, one in hint.__annotations__.items() if name not in OPTIONS}
    if unknown := set(value) - set(known):
        yield f"{path} has no {sorted(unknown)}"
    for name, one in known.items():
        if name in value:
            yield from _problems(value[name], one, hint.__module__, f"{path}.{name}", written=written)
        elif not _may_be_missing(one, hint.__module__):
            yield f"{path}.{name} is missing"


def _object(value: Any, resource: type[StripeObject], path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} is no object"
        return
    known, required = _fields(resource)  # type: ignore[arg-type]  # the SDK types make classes look unhashable
    for name in required - value.keys():
        yield f"{path}.{name} is missing"
    for name, one in value.items():
        if name not in known:
            yield f"{path} has no {name}"
        elif not (one is None and name not in required):
            yield from _problems(one, known[name], resource.__module__, f"{path}.{name}", written=False)


@cache
def _fields(resource: type[StripeObject]) -> tuple[dict[str, Any], frozenset[str]]:
    """The type of each field of a resource (without None), and the fields that are never null."""
    known = {name: hint for name, hint in inspect.get_annotations(resource).items() if not _is_inner(name, hint)}
    required = frozenset(name for name, hint in known.items() if type(None) not in get_args(hint))
    return {name: hint if name in required else _not_null(hint) for name, hint in known.items()}, required


def _not_null(hint: Any) -> Any:
    others = tuple(arg for arg in get_args(hint) if arg is not type(None))
    return others[0] if len(others) == 1 else typing.Union[others]  # noqa: UP007  of a tuple


def _is_inner(name: str, hint: Any) -> bool:
    return name.startswith("_") or get_origin(hint) is typing.ClassVar


def _may_be_missing(hint: Any, home: str) -> bool:
    if isinstance(hint, ForwardRef):
        hint, _ = _resolved(hint.__forward_arg__, home)
    return get_origin(hint) is typing_extensions.NotRequired


def _is_plain(value: Any, hint: Any, *, written: bool) -> bool:
    if hint is type(None):
        return value is None
    if isinstance(value, bool) and hint is not bool:
        return False
    if written and hint in WRITTEN and isinstance(value, str):
        return WRITTEN[hint].fullmatch(value) is not None
    return isinstance(value, int | float) if hint is float else inspect.isclass(hint) and isinstance(value, hint)


@cache
def _resolved(written: str, home: str) -> tuple[Any, str]:
    """The type of a quoted name in a module of the SDK, and the module that defines it."""
    found = eval(written, vars(sys.modules[home]) | dict(_for_types(home)))  # noqa: S307  the SDK's own annotations
    return found, getattr(found, "__module__", home) if inspect.isclass(found) else home


def _for_types(home: str) -> Iterator[tuple[str, Any]]:
    """The names that a module imports under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[home]))):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom) and line.module:
                    module = importlib.import_module(line.module)
                    for name in line.names:
                        yield name.asname or name.name, getattr(module, name.name)
