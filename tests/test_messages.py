"""Every message that a caller can receive, in one file: a change of a message is seen in the diff of `messages.txt`."""

import os
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any, Final

import pytest
from click.testing import CliRunner
from graphql import GraphQLError
from pydantic import ValidationError

from app.__main__ import cli
from app.api.error_types import ERROR_TYPES
from app.api.schema import build_schema
from app.cli.error_messages import settings_errors
from app.engine.coercion_messages import MAX_MESSAGE_LENGTH, plain_message
from app.engine.compiler.input_coercion import VariableCoercer
from app.engine.documents import DocumentCache, InvalidDocument, select_operation
from app.engine.transports.request_parsing import MalformedRequest, parse_body, parse_query_string
from app.errors import (
    BillingError,
    BudgetReached,
    InsufficientCredits,
    InvalidRateCard,
    PriceNotFound,
    Problem,
    TaskStopped,
)
from app.pricing.quotes import quote
from app.pricing.rate_card_document import parse_rate_card
from app.pricing.rate_card_json import parse_json
from app.settings import Settings
from tests.command_line import REPOSITORY
from tests.message_texts import FRAGMENT_CALLS, message_texts
from tests.pricing.cards import a_card

FILE: Final = REPOSITORY / "tests" / "messages.txt"
REWRITE: Final = "REWRITE_MESSAGES"
LONG: Final = "x" * 6_000

VALUES: Final[dict[str, Any]] = {
    "problems": [Problem("input.items.0.credits", "must lie between 1 and 9"), Problem("input.reason", "must say why")],
    "required_credits": 30,
    "available_credits": 29,
    "shortfall_credits": 1,
    "requested_credits": 2,
    "reversible_credits": 1,
    "refundable_credits": 1,
    "remaining_credits": 29,
    "held_credits": 1,
    "left_credits": 1,
    "limit_credits": 1_000,
    "balance": None,
    "rate_card_version": 7,
    "block": "WriteText",
    "measurement": "seconds",
    "reason": "The block is not in the rate card.",
    "stop_reason": "OUT_OF_CREDITS",
    "status": "COMPLETED",
    "figure": "The balance",
    "key": "run-1",
    "provider_code": "amount_too_small",
}
"""A typical value for each attribute of an error. An attribute whose name ends in `_id` has the value `id-1`."""

SPECIAL_ERRORS: Final[list[BillingError]] = [
    TaskStopped(task_id="task-1", stop_reason="BUDGET_REACHED"),
    TaskStopped(task_id=LONG, stop_reason="OUT_OF_CREDITS"),
    BudgetReached(task_id='a "b" \u202e', required_credits=1_000, remaining_credits=0),
    InsufficientCredits(required_credits=0, available_credits=0, shortfall_credits=5, balance=None),
    InsufficientCredits(required_credits=1, available_credits=0, shortfall_credits=5, balance=None),
]

INVALID_DOCUMENTS: Final = [
    "",
    "{",
    "query { nothing }",
    f"query {{ {LONG} }}",
    f'query {{ task(taskId: "{LONG}" }}',
    "query { account { balance } }",
    "query { account { balance { available { x } } } }",
    "query { task { taskId } }",
    "query { task(taskId: null) { taskId } }",
    "query { task(taskId: true) { taskId } }",
    f"query {{ task(taskId: {'9' * 6_000}) {{ taskId }} }}",
    'query { task(taskId: "1", other: 1) { taskId } }',
    "query { rateCard(version: 99999999999) { version } }",
    'query { rateCard(version: "1") { version } }',
    f"query {{ rateCard(version: {'9' * 6_000}) {{ version }} }}",
    "query ($v: Nothing) { rateCard(version: $v) { version } }",
    "query ($v: String) { rateCard(version: $v) { version } }",
    "query ($v: Int, $v: Int) { rateCard(version: $v) { version } }",
    "query ($v: Int) { __typename }",
    "query { rateCard(version: $v) { version } }",
    "query A { __typename } query A { __typename }",
    "query A { __typename } query B { __typename }",
    "query { ...F }",
    "fragment F on Query { __typename } query { __typename }",
    "fragment F on Query { ...F } query { ...F }",
    "query { ... on Nothing { x } }",
    "query { __typename @nothing }",
    "query { __schema { queryType { name } } }",
    "query { a: __typename a: rateCard { version } }",
    "mutation { startTask(input: {}) { __typename } }",
    "mutation { startTask(input: 1) { __typename } }",
    'mutation { startTask(input: {taskId: "1", taskId: "2"}) { __typename } }',
    'mutation { finishTask(input: {taskId: "1", status: DONE}) { __typename } }',
    'mutation { finishTask(input: {taskId: "1", status: "COMPLETED"}) { __typename } }',
    "subscription { balance { available } taskSignals { kind } }",
    f"query {{ {'a { ' * 40}",
]
INVALID_VARIABLES: Final[list[tuple[str, dict[str, Any]]]] = [
    ("query ($v: Int!) { rateCard(version: $v) { version } }", {}),
    ("query ($v: Int!) { rateCard(version: $v) { version } }", {"v": None}),
    ("query ($v: Int) { rateCard(version: $v) { version } }", {"v": True}),
    ("query ($v: Int) { rateCard(version: $v) { version } }", {"v": "1"}),
    ("query ($v: Int) { rateCard(version: $v) { version } }", {"v": 1.5}),
    ("query ($v: Int) { rateCard(version: $v) { version } }", {"v": 2**31}),
    ("query ($v: Int) { rateCard(version: $v) { version } }", {"v": {"$ne": None}}),
    ("query ($v: Int) { rateCard(version: $v) { version } }", {"v": LONG}),
    ("query ($v: ID!) { task(taskId: $v) { taskId } }", {"v": {"$ne": None}}),
    ("query ($v: ID!) { task(taskId: $v) { taskId } }", {"v": 1.5}),
    ("query ($v: String!) { blockPrice(block: $v) { __typename } }", {"v": ["a", False]}),
    ('query ($v: Boolean!) { blockPrice(block: "A", usesOwnKey: $v) { __typename } }', {"v": "true"}),
    ('query ($v: JSON) { blockPrice(block: "A", settings: $v) { __typename } }', {"v": {"a": "\0"}}),
    ('query ($v: JSON) { blockPrice(block: "A", settings: $v) { __typename } }', {"v": {"a": 10**30}}),
    ("query ($v: [PlannedBlockRun!]!) { estimateTask(blockRuns: $v) { credits } }", {"v": [None]}),
    ("query ($v: [PlannedBlockRun!]!) { estimateTask(blockRuns: $v) { credits } }", {"v": [{"block": 1}]}),
    ("query ($v: [PlannedBlockRun!]!) { estimateTask(blockRuns: $v) { credits } }", {"v": [{"blok": LONG}]}),
    ("query ($v: [PlannedBlockRun!]!) { estimateTask(blockRuns: $v) { credits } }", {"v": "x"}),
    ("mutation ($v: FinishTaskInput!) { finishTask(input: $v) { __typename } }", {"v": {"taskId": "1", "status": "X"}}),
    ("mutation ($v: FinishTaskInput!) { finishTask(input: $v) { __typename } }", {"v": {"taskId": "1", "status": 1}}),
    ("mutation ($v: StartTaskInput!) { startTask(input: $v) { __typename } }", {"v": {"budget": 1.5}}),
    ("mutation ($v: StartTaskInput!) { startTask(input: $v) { __typename } }", {"v": {"budget": 2**60}}),
    ("mutation ($v: GrantCreditsInput!) { grantCredits(input: $v) { __typename } }", {"v": {"expiresAt": "tomorrow"}}),
    ("mutation ($v: GrantCreditsInput!) { grantCredits(input: $v) { __typename } }", {"v": {"expiresAt": 5}}),
]
INVALID_SETTINGS: Final[list[dict[str, Any]]] = [
    {"port": "eighty"},
    {"port": "70000"},
    {"workers": "0"},
    {"sweep_seconds": "never"},
    {"sweep_seconds": "inf"},
    {"request_log": LONG},
    {"currency": "usd"},
    {"stripe_automatic_tax": "perhaps"},
    {"environment": "staging"},
    {"top_up_bonuses": "5000"},
    {"expiry_notification_days": "x"},
]


CARD: Final = a_card(
    {"block": "Write", "rules": [{"when": {"size": "big"}, "credits": 1}]},
    {"block": "Draw", "rules": [{"when": {"size": size, "hd": True}, "credits": 1} for size in range(50)]},
)
INVALID_COMMANDS: Final[list[list[str]]] = [
    ["nothing"],
    ["serve", "--nothing"],
    ["serve", "--port", "x"],
    ["verify", "a", "b"],
    ["grant"],
    ["grant", "alice", "x"],
    ["grant", "alice", "10", "--source", "GIFT"],
    ["grant", "alice", "10", "--expires-at", "tomorrow"],
    ["keys", "create", "name", "--scope", "write"],
]


INCOMPLETE: Final = {
    *("Closed", "EventNotApplied", "RejectedCredential", "command line", "fail"),
    *(call.strip("_") for call in FRAGMENT_CALLS),
}
"""Kinds without a full stop: reasons of close frames, reasons for operators, click's own messages, and fragments."""


def test_the_file_has_every_message() -> None:
    found = "\n".join(collect_messages()) + "\n"

    if os.environ.get(REWRITE):
        FILE.write_text(found, encoding="utf-8")
    assert found == FILE.read_text(encoding="utf-8"), (
        "The messages have changed: run `make messages`, and review the diff of tests/messages.txt."
    )


@pytest.mark.parametrize(
    ("rule", "pattern"),
    [
        ("no value in Python's spelling", r"(?<![\w`])(True|False|None)(?![\w`])(?! of)|u'|\{'|\[Errno|codec can't"),
        ("no object of Python", r"<class|<\w+ object|Error\(|Exception\(|\('|!r\b|Traceback"),
        ("no sentence of pydantic", r"Value error|Input should|validation error"),
        ("no double space", r"\S  \S"),
        ("no plural after a number that can be 1", r"«len\([^»]*»(?: \w+)? \w+s\b"),
        ("no plural after 1", r"(?<![\d.,:-])\b1 (credits|tasks|items|entries|accounts|problems|days|keys|runs)\b"),
    ],
)
def test_no_message_has(rule: str, pattern: str) -> None:
    assert [line for line in collect_messages() if re.search(pattern, line.partition(": ")[2])] == [], rule


def test_every_message_is_short_and_ends_like_a_sentence() -> None:
    for line in collect_messages():
        kind, _, message = line.partition(": ")
        assert len(message) <= MAX_MESSAGE_LENGTH, line
        if kind not in INCOMPLETE:
            assert message.endswith((".", "?", "!", "…", "»")), line


@cache
def collect_messages() -> list[str]:
    """Return a line for each message: where it comes from, and its text."""
    return sorted(
        {*message_texts(), *_billing_errors(), *_invalid_documents(), *_invalid_others(), *_invalid_settings()}
    )


def _billing_errors() -> Iterator[str]:
    for cls in ERROR_TYPES:
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # every error is a dataclass
        values = {name: "id-1" if name.endswith("_id") else VALUES[name] for name in names}
        yield f"{cls.__name__}: {cls(**values).message}"
    for error in SPECIAL_ERRORS:
        yield f"{type(error).__name__}: {error.message}"


def _invalid_documents() -> Iterator[str]:
    schema = build_schema()._schema
    cache = DocumentCache(schema, introspection=False, suggestions=True)
    for text in INVALID_DOCUMENTS:
        try:
            select_operation(cache.parse_and_validate(text), None)
        except InvalidDocument as invalid:
            for error in invalid.errors:
                yield f"document: {plain_message(error.message)}".replace("\n", "⏎")
        else:
            pytest.fail(f"valid: {text}")
    for text, given in INVALID_VARIABLES:
        operation = select_operation(cache.parse_and_validate(text), None)
        errors: Any = VariableCoercer(schema, operation, hide_suggestions=False).coerce(given)
        assert isinstance(errors, list), f"valid: {text} {given}"
        yield from (f"variables: {plain_message(error.message)}" for error in errors if isinstance(error, GraphQLError))


def _invalid_others() -> Iterator[str]:
    for body in (b"{", b"\xff", b"[" * 2_000, b"NaN", b'{"query": 1e999999}', b"null", b'{"query": 1}'):
        with pytest.raises(MalformedRequest) as malformed:
            parse_body(body)
        yield f"body: {malformed.value}"
    for query in (b"\xff", b"query=%FF", b"variables={", b"a=1&a=2", b"&".join([b"a=1"] * 30), b"variables=[1]"):
        with pytest.raises(MalformedRequest) as malformed:
            parse_query_string(query, 10_000)
        yield f"URL: {malformed.value}"
    for block, settings in (("Writes", {}), ("Write", {}), ("Write", {"size": LONG}), ("Draw", {"size": 1})):
        with pytest.raises(PriceNotFound) as refused:
            quote(CARD, block, settings)
        yield f"PriceNotFound: {refused.value.message}"
    for document in ('{"a": 1, "a": 2}', "{", '{"blocks": NaN}', f'{{"{LONG}": 1}}', '{"blocks": [{"block": null}]}'):
        with pytest.raises(InvalidRateCard) as invalid:
            parse_rate_card(parse_json(document), version=1, effective_at=CARD.effective_at)
        yield f"InvalidRateCard: {invalid.value.message}"
    for arguments in INVALID_COMMANDS:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code, arguments
        yield f"command line: {result.output.strip().splitlines()[-1].removeprefix('Error: ')}"


def _invalid_settings() -> Iterator[str]:
    for given in INVALID_SETTINGS:
        try:
            Settings(**given)
        except ValidationError as error:
            yield from (f"settings: {message}" for message in settings_errors(error))
        else:
            pytest.fail(f"valid: {given}")
