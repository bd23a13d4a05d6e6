"""The client of a measurement, in another process: wrk where it is installed, else the bench's own."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Final

from bench import servers, wrk
from bench.requests import Plan
from bench.tally import Tally

OWN: Final = "bench.load"


class ClientFailed(Exception):
    """It came to nothing; the text says why."""


def name() -> str:
    return "wrk" if wrk.program() else OWN


def carry_out(plan: Plan) -> Tally:
    """Send what the plan says and wait for every reply. Raises: ClientFailed."""
    if wrk.program():
        try:
            return wrk.carry_out(plan)
        except wrk.WrkFailed as fault:
            raise ClientFailed(str(fault)) from None
    own = subprocess.run(
        [sys.executable, "-m", OWN],
        cwd=servers.CHECKOUT,
        input=json.dumps(asdict(plan)),
        capture_output=True,
        text=True,
        check=False,
    )
    if own.returncode != 0:
        raise ClientFailed(f"The client of {plan.run} failed:\n{own.stderr[-4000:]}")
    return Tally(**json.loads(own.stdout))
