"""Finds the texts of messages in the source of the application.

A text is an argument of a call that makes an error (see `ERROR_CALLS`), or another literal that reads like a sentence.
A value that is put into the text is shown as its expression in «».
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

APP: Final = Path(__file__).parents[1] / "app"

FRAGMENT_CALLS: Final = {"at", "Problem", "note", "InvalidInstant", "AddressRefused", "_InvalidUrl"}
"""Their text follows the name of the value that it is about: `must lie between 1 and 9`."""
ERROR_CALLS: Final = {
    *("BadRequest", "BodyRejected", "CheckFailed", "ClickException", "CouldNotRun", "DocumentProblem"),
    *("EmbeddedPostgresError", "Forbidden", "GraphQLError", "InvalidDocumentId", "InvalidProviderEvent"),
    *("MalformedRequest", "Misconfigured", "OutOfRange", "PriceUnavailable", "RejectedCredential", "Unauthenticated"),
    *("Unavailable", "UsageError", "WrongUse", "_Closed", "_Refused", "_message", "format_error", "_refuse_operation"),
    *("InexactAmount", "EventNotApplied", "fail", *FRAGMENT_CALLS),
}
_NOT_FOR_CALLERS: Final = {"AssertionError", "LookupError", "RuntimeError", "TypeError", "ValueError", "described"}
_LOGGING: Final = {"debug", "info", "warning", "error", "exception", "critical"}
_DESCRIPTIONS: Final = {"description", "help", "epilog", "short_help", "deprecation_reason", "default"}
_SENTENCE: Final = re.compile(r"[A-Z`«\"][^\n]* [^\n]*[.?!]")


def message_texts() -> list[str]:
    """Return each text once, after the name of its call. Descriptions of the schema are left out."""
    schema = (APP.parent / "schema.graphql").read_text(encoding="utf-8")
    sources = (path.read_text(encoding="utf-8") for path in APP.rglob("*.py") if path.name != "metrics.py")
    found = {text for source in sources for text in _texts_of(ast.parse(source))}
    return sorted(text.replace("\n", "⏎") for text in found if text.removeprefix("text: ") not in schema)


def _texts_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.keyword) and node.arg in _DESCRIPTIONS:
            continue
        if isinstance(node, ast.Call):
            yield from _texts_of_call(node)
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            text = _text(node)
            if text is not None and _SENTENCE.fullmatch(text):
                yield f"text: {text}"
        else:
            yield from _texts_of(node)


def _texts_of_call(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in _NOT_FOR_CALLERS or (name in _LOGGING and isinstance(call.func, ast.Attribute)):
        return
    if name not in ERROR_CALLS:
        yield from _texts_of(call)
        return
    for argument in call.args:
        text = _text(argument)
        if text is not None and " " in text:
            yield f"{name.strip('_')}: {text}"
        elif text is None:
            yield from _texts_of(argument)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else f"«{_expression(part)}»" for part in node.values
        )
    return None


def _expression(part: ast.AST) -> str:
    value = ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ast.unparse(part)
    is_spelled_by_python = isinstance(part, ast.FormattedValue) and part.conversion == ord("r")
    return f"{value}!r" if is_spelled_by_python else value
