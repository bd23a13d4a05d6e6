"""`python -m app simulate`: a day played by `examples.simulation` with the tokens that it needs, then the audit."""

import asyncio

from app.auth import development_keys
from app.cli import token, verify
from app.cli.connection import database_url, open_database
from app.errors import Misconfigured
from app.settings import get_settings, server_url
from examples.simulation import output
from examples.simulation.client import Tokens, UnexpectedResponse
from examples.simulation.output import ProgressOutput
from examples.simulation.reconciliation import credit_totals
from examples.simulation.runner import SimulationResult, run_simulation

NAME = "simulation"
"""Of the service and the operator that act in it."""


def run(url: str | None, *, seed: int, tasks: int, concurrency: int, verbose: bool) -> int:
    """The exit status: 0 where everything agrees and the books are whole, else 1."""
    console = output.console()
    try:
        with ProgressOutput(console, verbose=verbose) as watching:
            played = asyncio.run(_play(url or _own_url(), watching, seed=seed, tasks=tasks, concurrency=concurrency))
    except UnexpectedResponse as fault:
        console.print(f"The day broke off: {fault}", markup=False)
        return 1
    output.print_results(console, played)
    console.print("Audit")
    whole = verify.run(None, None) == 0
    return 0 if whole and not played.differences and credit_totals(played.tally, played.seen).agree else 1


async def _play(url: str, watching: ProgressOutput, *, seed: int, tasks: int, concurrency: int) -> SimulationResult:
    return await run_simulation(url, _tokens, watching, seed=seed, tasks=tasks, concurrency=concurrency)


async def _tokens() -> Tokens:
    operator = await token.create_token("operator", NAME)
    with database_url() as address:
        async with open_database(address):
            return Tokens(await token.create_token("service", NAME), operator, development_keys.user_token)


def _own_url() -> str:
    """Where `serve` listens with these settings. Raises: Misconfigured: it chose a port by itself."""
    here = get_settings()
    if here.port == 0:
        raise Misconfigured("PORT is 0, so the server chose one: name it with --url http://127.0.0.1:PORT.")
    return server_url(here)
