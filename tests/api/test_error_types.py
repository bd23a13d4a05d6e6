"""The GraphQL types of expected errors, derived from the BillingError classes."""

import inspect
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import strawberry

from app import errors
from app.api.accounts.balance import to_balance
from app.api.error_types import ERROR_TYPES, Problem, UserError, to_user_error
from app.api.scalars import Credits
from app.errors import BillingError
from app.ledger.rules.account_state import AccountBalance
from app.settings import Settings
from app.topups import errors as top_up_errors

BALANCE = AccountBalance(
    account_id=7,
    owner_id="alice",
    version=3,
    posted=4,
    held=0,
    frozen=0,
    owed=0,
    as_of=datetime(2026, 1, 31, tzinfo=UTC),
)
CONTEXT: Any = SimpleNamespace(state=SimpleNamespace(settings=Settings()))


def test_every_error_has_a_type_that_implements_the_interface() -> None:
    classes = {
        cls
        for module in (errors, top_up_errors)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, BillingError) and cls is not BillingError
    }
    assert set(ERROR_TYPES) == classes
    assert {error.error_type.__name__ for error in ERROR_TYPES.values()} == {f"{cls.__name__}Error" for cls in classes}
    assert all(issubclass(error.error_type, UserError) for error in ERROR_TYPES.values())


def test_ids_and_credits_have_their_scalars() -> None:
    annotations = ERROR_TYPES[errors.HoldExceeded].error_type.__annotations__
    assert annotations == {
        "block_run_id": strawberry.ID, "required": Credits, "held": Credits, "shortfall": Credits,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "typename", "fields"),
    [
        (
            errors.InvalidRateCard.at("blocks.0", "is listed twice"),
            "InvalidRateCardError",
            {"problems": [Problem(path="blocks.0", message="is listed twice")]},
        ),
        (
            errors.InvalidInput(problems=[errors.Problem("a", "is odd"), errors.Problem("b.c", "is even")]),
            "InvalidInputError",
            {"problems": [Problem(path="a", message="is odd"), Problem(path="b.c", message="is even")]},
        ),
        (
            errors.InsufficientCredits(required_credits=10, available_credits=4, shortfall_credits=6, balance=BALANCE),
            "InsufficientCreditsError",
            {"required": 10, "available": 4, "shortfall": 6, "balance": to_balance(BALANCE, CONTEXT)},
        ),
        (
            errors.PriceNotFound(block="b", rate_card_version=3),
            "PriceNotFoundError",
            {"block": "b", "rate_card_version": 3},
        ),
        (
            errors.MeasurementMissing(block="b", measurement="seconds"),
            "MeasurementMissingError",
            {"block": "b", "measurement": "seconds"},
        ),
        (errors.TaskNotFound(task_id="t"), "TaskNotFoundError", {"task_id": "t"}),
        (
            errors.TaskStopped(task_id="t", stop_reason="OUT_OF_CREDITS"),
            "TaskStoppedError",
            {"task_id": "t", "stop_reason": "OUT_OF_CREDITS"},
        ),
        (errors.TaskEnded(task_id="t", status="FAILED"), "TaskEndedError", {"task_id": "t", "status": "FAILED"}),
        (
            errors.BlockRunNotFound(task_id="t", block_run_id="r"),
            "BlockRunNotFoundError",
            {"task_id": "t", "block_run_id": "r"},
        ),
        (
            errors.ReversalExceedsCharge(requested_credits=9, reversible_credits=5),
            "ReversalExceedsChargeError",
            {"requested": 9, "reversible": 5},
        ),
        (errors.GrantNotFound(grant_id="g"), "GrantNotFoundError", {"grant_id": "g"}),
        (top_up_errors.TopUpNotFound(top_up_id="p"), "TopUpNotFoundError", {"top_up_id": "p"}),
        (top_up_errors.TopUpNotPaid(status="PENDING"), "TopUpNotPaidError", {"status": "PENDING"}),
        (
            top_up_errors.RefundExceedsTopUp(requested_credits=5, refundable_credits=4),
            "RefundExceedsTopUpError",
            {"requested": 5, "refundable": 4},
        ),
        (errors.IdempotencyConflict(key="k"), "IdempotencyConflictError", {"key": "k"}),
        (errors.BalanceLimitReached(figure="posted"), "BalanceLimitReachedError", {"figure": "posted"}),
    ],
)
def test_an_error_is_converted_to_its_type_with_all_fields(
    error: BillingError, typename: str, fields: dict[str, object]
) -> None:
    converted = to_user_error(error, CONTEXT)
    assert type(converted).__name__ == typename
    assert vars(converted) == {"message": error.message, **fields}


def test_an_error_without_a_type_is_raised() -> None:
    class Unlisted(BillingError):
        message = "unlisted"

    with pytest.raises(Unlisted):
        to_user_error(Unlisted(), CONTEXT)


def test_insufficient_credits_without_a_balance_are_a_bug() -> None:
    with pytest.raises(TypeError, match="must carry the balance"):
        to_user_error(
            errors.InsufficientCredits(required_credits=2, available_credits=1, shortfall_credits=1, balance=None),
            CONTEXT,
        )
