"""The books against a plain model of them, over random histories. `make soak` plays the same for longer."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from app.verify import verifier
from tests.soak import sized
from tests.state_machine.database import machine_database
from tests.state_machine.machine import LedgerMachine

EXAMPLES = sized(100, soak=4_000)
STEPS = 50

KINDS = [
    "Start", "Charge", "Place", "Capture", "Void", "Give", "Revoke", "ReverseCharge", "ReverseTask", "Finish",
    "Resume", "End", "Buy", "Refund", "TellOfRefund", "TellOfDispute",
]  # fmt: skip

AS_LONG_AS_IT_TAKES = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    print_blob=True,
    # A step goes to a database and back, and an example has many: slower than what Hypothesis expects of pure code.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_the_books_say_what_a_plain_model_says_after_any_history(database_url: str) -> None:
    with machine_database(database_url) as world:
        run_state_machine_as_test(LedgerMachine.of(world), settings=AS_LONG_AS_IT_TAKES)

        report = world.run(verifier.verify_ledger())
        assert report.is_intact, [str(found) for found in report.violations]
        assert world.examples >= EXAMPLES
        assert world.steps >= 20 * EXAMPLES
        # A machine that gets nowhere would prove nothing: each request has been carried out, and most were refused too.
        assert {kind for kind in KINDS if not world.answers[f"{kind} done"]} == set()
        assert sum(" done" not in answer for answer in world.answers) > 20
