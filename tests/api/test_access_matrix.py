"""Every operation by every kind of caller: allowed, or the exact refusal, over HTTP, WebSocket and event streams.

Operations and documents are made from the schema; who may is written down here, so that no declaration changes unseen.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.callers import (
    CALLERS,
    TRANSPORTS,
    Transports,
    arguments_of,
    document_of,
    open_transports,
    operations,
)
from tests.api.conftest import Api

pytestmark = pytest.mark.anyio

SIGN_IN = ("UNAUTHENTICATED", "Say who you are: send an Authorization header with a bearer token.")
NEEDS_SERVICE = ("FORBIDDEN", "This needs a service key with the scope charge, or an operator.")
NEEDS_OPERATOR = ("FORBIDDEN", "This needs an operator.")
NEEDS_BUYER = ("FORBIDDEN", "Credits are bought by a user, for its own account.")
KEYS = {"key: charge", "key: read", "key: admin"}

WHOEVER_SIGNED_IN = {
    "query account", "query agent", "query task", "query tasks", "query topUp", "query blockPrice",
    "query estimateTask", "query rateCard", "query node",
    "mutation cancelTask", "mutation resumeTask", "mutation confirmTopUp", "mutation markNotificationsRead",
    "mutation setLowBalanceThreshold", "mutation setAutoTopUp",
    "subscription balance", "subscription taskCost", "subscription notices",
}  # fmt: skip
BUYERS = {"mutation beginTopUp", "mutation openBillingPortal"}
SERVICES = {
    "mutation startTask", "mutation finishTask", "mutation charge", "mutation chargeBatch", "mutation placeHold",
    "mutation captureHold", "mutation voidHold", "mutation finishBlockRun", "subscription taskSignals",
}  # fmt: skip
OPERATORS = {
    "query auditLog", "mutation grantCredits", "mutation revokeGrant", "mutation reverseCharge",
    "mutation reverseTask", "mutation refundTopUp", "mutation publishRateCard",
}  # fmt: skip


def expected(operation: str, caller: str) -> tuple[str, str] | None:
    """The refusal; None: allowed."""
    if caller == "anonymous":
        return SIGN_IN
    if operation in BUYERS:
        return NEEDS_BUYER if caller in KEYS else None
    if operation in SERVICES:
        return None if caller in {"key: charge", "key: admin", "operator"} else NEEDS_SERVICE
    if operation in OPERATORS:
        return None if caller in {"key: admin", "operator"} else NEEDS_OPERATOR
    return None


def refusal(answer: dict[str, Any]) -> tuple[str, str] | None:
    """Why it was refused to this caller; None: it was not, whatever became of it."""
    for error in answer.get("errors") or []:
        assert error["extensions"]["code"] != "INTERNAL", answer
        if error["extensions"]["code"] in {"UNAUTHENTICATED", "FORBIDDEN"}:
            return error["extensions"]["code"], error["message"]
    return None


@pytest.fixture
async def doors(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Transports]:
    async with open_transports(api, monkeypatch) as made:
        yield made


def test_the_matrix_has_every_operation() -> None:
    assert {f"{kind} {name}" for kind, name, _ in operations()} == WHOEVER_SIGNED_IN | BUYERS | SERVICES | OPERATORS


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("caller", CALLERS)
async def test_each_caller_may_do_what_is_written_down_and_nothing_else(
    doors: Transports, transport: str, caller: str
) -> None:
    found = {}
    for kind, name, field in operations():
        if transport == "HTTP" and kind == "subscription":
            continue
        variables = arguments_of(field)
        answer = await doors.execute(transport, caller, document_of(kind, name, field, variables), **variables)
        found[f"{kind} {name}"] = refusal(answer)
    assert found == {operation: expected(operation, caller) for operation in found}
    assert len(found) >= 30


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("credential", ["nonsense", "ck_" + "0" * 16 + "_" + "0" * 64, "a.b.c"])
async def test_a_wrong_credential_is_nobody_on_no_transport(doors: Transports, transport: str, credential: str) -> None:
    wrong = Transports(doors.http, doors.sockets, {"wrong": credential})
    if transport != "WebSocket":
        answer = await wrong.execute(transport, "wrong", "{ __typename }")
        assert refusal(answer) is not None
        assert "data" not in answer
    else:
        with pytest.raises(AssertionError, match="4403"):
            await wrong.execute("WebSocket", "wrong", "{ __typename }")
