"""The ledger against a simple model, over random histories. `make soak` runs more examples."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from app.verify import verifier
from tests.soak import sized
from tests.state_machine.database import machine_database
from tests.state_machine.machine import LedgerMachine

EXAMPLES = sized(100, soak=4_000)
STEPS = 50

KINDS = [
    "Start", "Charge", "Place", "Capture", "Void", "AddGrant", "Revoke", "ReverseCharge", "ReverseTask", "Finish",
    "Resume", "End", "Buy", "Refund", "RefundEvent", "DisputeEvent",
]  # fmt: skip

NO_TIME_LIMITS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    print_blob=True,
    # Each step uses the database, which is slower than Hypothesis expects.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_the_ledger_agrees_with_the_model_after_any_history(database_url: str) -> None:
    with machine_database(database_url) as database:
        run_state_machine_as_test(LedgerMachine.of(database), settings=NO_TIME_LIMITS)

        report = database.run(verifier.verify_ledger())
        assert report.is_intact, [str(found) for found in report.violations]
        assert database.examples >= EXAMPLES
        assert database.steps >= 20 * EXAMPLES
        # Each kind of request must have succeeded, and most must also have been refused.
        assert {kind for kind in KINDS if not database.answers[f"{kind} done"]} == set()
        assert sum(" done" not in answer for answer in database.answers) > 20
