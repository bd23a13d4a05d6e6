"""The access matrix: every operation by every kind of caller over HTTP, WebSocket and SSE is allowed or refused.

Operations and documents are generated from the schema. Who may use them is listed here, so that a changed permission
fails a test.
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

UNAUTHENTICATED_ERROR = (
    "UNAUTHENTICATED",
    "Authentication is required: send an Authorization header with a bearer token.",
)
SERVICE_ERROR = ("FORBIDDEN", "This needs a service key with the scope charge.")
OPERATOR_ERROR = ("FORBIDDEN", "This needs an operator.")
BUYER_ERROR = ("FORBIDDEN", "Only a user can buy credits, for its own account.")
KEYS = {"key: charge", "key: read", "key: admin", "key: admin and charge"}

AUTHENTICATED = {
    "query account", "query agent", "query task", "query tasks", "query topUp", "query blockPrice",
    "query estimateTask", "query rateCard", "query node",
    "mutation cancelTask", "mutation resumeTask", "mutation confirmTopUp", "mutation markNotificationsRead",
    "mutation setLowBalanceThreshold", "mutation setAutoTopUp",
    "subscription balance", "subscription taskCost", "subscription notifications",
}  # fmt: skip
BUYERS = {"mutation beginTopUp", "mutation openBillingPortal"}
SERVICES = {
    "mutation startTask", "mutation finishTask", "mutation charge", "mutation chargeBatch", "mutation placeHold",
    "mutation captureHold", "mutation voidHold", "mutation finishBlockRun", "subscription taskSignals",
}  # fmt: skip
OPERATORS = {
    "query auditLog", "mutation grantCredits", "mutation revokeGrant", "mutation reverseCharge",
    "mutation reverseTask", "mutation refundTopUp", "mutation publishRateCard", "query webhookEndpoints",
    "mutation createWebhookEndpoint", "mutation rotateWebhookSecret", "mutation disableWebhookEndpoint",
    "mutation enableWebhookEndpoint", "mutation redeliverWebhook",
}  # fmt: skip


def expected(operation: str, caller: str) -> tuple[str, str] | None:
    """The expected error code and message; None: allowed."""
    if caller == "anonymous":
        return UNAUTHENTICATED_ERROR
    if operation in BUYERS:
        return BUYER_ERROR if caller in KEYS else None
    if operation in SERVICES:
        return None if caller in {"key: charge", "key: admin and charge"} else SERVICE_ERROR
    if operation in OPERATORS:
        return None if caller in {"key: admin", "key: admin and charge", "operator"} else OPERATOR_ERROR
    return None


def permission_error(answer: dict[str, Any]) -> tuple[str, str] | None:
    """Code and message of the permission error; None: the caller was allowed to use the operation."""
    for error in answer.get("errors") or []:
        assert error["extensions"]["code"] != "INTERNAL", answer
        if error["extensions"]["code"] in {"UNAUTHENTICATED", "FORBIDDEN"}:
            return error["extensions"]["code"], error["message"]
    return None


@pytest.fixture
async def transports(api: Api) -> AsyncIterator[Transports]:
    async with open_transports(api) as made:
        yield made


def test_the_matrix_has_every_operation() -> None:
    assert {f"{kind} {name}" for kind, name, _ in operations()} == AUTHENTICATED | BUYERS | SERVICES | OPERATORS


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_caller_may_use_exactly_the_listed_operations(transports: Transports, transport: str) -> None:
    for caller in CALLERS:
        found = {}
        for kind, name, field in operations():
            if transport == "HTTP" and kind == "subscription":
                continue
            variables = arguments_of(field)
            answer = await transports.execute(transport, caller, document_of(kind, name, field, variables), **variables)
            found[f"{kind} {name}"] = permission_error(answer)
        assert found == {operation: expected(operation, caller) for operation in found}, caller
        assert len(found) >= 30


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_invalid_credential_is_rejected_on_every_transport(transports: Transports, transport: str) -> None:
    for credential in ("not a token", "ck_" + "0" * 16 + "_" + "0" * 64, "a.b.c"):
        invalid = Transports(transports.http, transports.sockets, {"invalid": credential})
        if transport != "WebSocket":
            answer = await invalid.execute(transport, "invalid", "{ __typename }")
            assert permission_error(answer) is not None
            assert "data" not in answer
        else:
            with pytest.raises(AssertionError, match="4403"):
                await invalid.execute("WebSocket", "invalid", "{ __typename }")
