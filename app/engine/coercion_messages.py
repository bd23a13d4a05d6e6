"""Changes graphql-core's messages about requests: how values are written, the length, and the full stop at the end.

graphql-core writes the values of variables as Python does (True, None, {'a': 1}) and quotes literals in full. It has no
setting for that, so the functions that write these parts of messages are replaced.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from graphql import Node, print_ast

from app.wording import quote_value, shorten, shorten_words

MAX_MESSAGE_LENGTH: Final = 500
_MODULES: Final = ("type.definition", "type.scalars", "utilities.coerce_input_value", "utilities.validate_input_value")


def use_plain_coercion_messages() -> None:
    """Replace these functions of graphql-core, for all schemas of the process."""
    for name in _MODULES:
        module: Any = sys.modules[f"graphql.{name}"]
        module.inspect = quote_value
        module.print_for_error = quote_literal
    values: Any = sys.modules["graphql.utilities.validate_input_value"]
    for name in ("report_invalid_value", "report_invalid_literal"):
        report = getattr(values, name)
        setattr(values, name, getattr(report, "with_null", None) or _with_null(report))


def quote_literal(node: Node) -> str:
    """Return a value of a document as it is written there. A long value is cut, and is on one line."""
    return shorten(" ".join(print_ast(node).split()))


def plain_message(message: str) -> str:
    """Return a message of graphql-core with long words and long lists cut, and with a full stop at its end."""
    text = shorten_words(message)
    if len(text) > MAX_MESSAGE_LENGTH:
        text = f"{text[: MAX_MESSAGE_LENGTH - 1]}…"
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


def _with_null(report: Callable[..., None]) -> Callable[..., None]:
    @wraps(report)
    def report_plainly(on_error: Any, message: str, *details: Any) -> None:
        if message.endswith(" not to be None."):
            message = message.removesuffix("None.") + "null."
        report(on_error, message, *details)

    report_plainly.with_null = report_plainly  # type: ignore[attr-defined]  # it is replaced once
    return report_plainly
