"""`python -m examples.simulation`: run the simulation against a server, then verify its ledger."""

import asyncio
import sys

import click

from app.auth import development_keys
from app.cli import error_messages, token, verify
from app.cli.connection import database_url, open_database
from app.errors import Misconfigured
from app.settings import get_settings, server_url
from examples.simulation import output
from examples.simulation.client import Tokens, UnexpectedResponse
from examples.simulation.output import ProgressOutput
from examples.simulation.reconciliation import credit_totals
from examples.simulation.runner import SimulationResult, run_simulation

NAME = "simulation"
"""The name of the service and of the operator whose tokens are used."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--url", help="The server. Default: http://HOST:PORT.")
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed and rate card: same workload.")
@click.option("--tasks", type=click.IntRange(1, 100_000), default=1_200, show_default=True, help="Number of tasks.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=12, show_default=True, help="Tasks at a time.")
@click.option("--verbose", is_flag=True, help="Print every event.")
def command(*, url: str | None, seed: int, tasks: int, concurrency: int, verbose: bool) -> None:
    """Simulate a day of an agent platform against a running server, then verify the ledger.

    Needs the DATA_DIR and DATABASE_URL of the server. Exits with 1 unless the API, the responses and the ledger agree.
    """
    try:
        sys.exit(0 if run(url, seed=seed, tasks=tasks, concurrency=concurrency, verbose=verbose) else 1)
    except Exception as error:
        if (message := error_messages.message_for(error)) is None:
            raise
        raise click.ClickException(message) from error


def run(url: str | None, *, seed: int, tasks: int, concurrency: int, verbose: bool) -> bool:
    """Run the simulation and print the results. Return whether API, responses and ledger agree."""
    console = output.standard_output()
    try:
        with ProgressOutput(console, verbose=verbose) as progress:
            simulation = run_simulation(
                url or _default_url(), _create_tokens, progress, seed=seed, tasks=tasks, concurrency=concurrency
            )
            result: SimulationResult = asyncio.run(simulation)
    except UnexpectedResponse as error:
        console.print(f"The simulation was aborted: {error}", markup=False)
        return False
    output.print_results(console, result)
    console.print("Verification of the ledger")
    is_verified = verify.run(None, None) == 0
    return is_verified and not result.differences and credit_totals(result.expected, result.actual).agree


async def _create_tokens() -> Tokens:
    operator = await token.create_token("operator", NAME)
    with database_url() as url:
        async with open_database(url):
            return Tokens(await token.create_token("service", NAME), operator, development_keys.user_token)


def _default_url() -> str:
    """Return the URL on which `serve` listens with these settings. Raises: Misconfigured: PORT is 0."""
    settings = get_settings()
    if settings.port == 0:
        raise Misconfigured("PORT is 0, so the server has chosen a port: set --url http://127.0.0.1:PORT.")
    return server_url(settings)


if __name__ == "__main__":
    command(prog_name="python -m examples.simulation")
