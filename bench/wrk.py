"""wrk as the client: lean C, so that more of the machine is left to what is measured. wrk.lua says what it sends."""

import re
import shutil
import signal
import subprocess
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import scenarios
from bench.cpu import cpu_seconds
from bench.requests import MARKS, Plan, shape_of
from bench.tally import Tally

SCRIPT: Final = Path(__file__).with_suffix(".lua")
CONNECT_SECONDS: Final = 0.1
"""Until wrk has its connections, about: it counts from its first request."""
DRAIN_SECONDS: Final = 60


class WrkFailed(Exception):
    """It did not run to its end; the text says why."""


def program() -> str | None:
    """Where it is, if it is installed."""
    return shutil.which("wrk")


def carry_out(plan: Plan) -> Tally:
    """Send what the plan says, first a while that does not count, and wait for every reply. Raises: WrkFailed."""
    if not plan.warm_up_seconds:
        return _run(plan)
    warm = _run(replace(plan, run=f"{plan.run}-warm", seconds=plan.warm_up_seconds))
    tally = _run(plan)
    return replace(
        tally,
        acknowledged=warm.acknowledged + tally.acknowledged,
        refused=warm.refused + tally.refused,
        refusal=warm.refusal or tally.refusal,
    )


def _run(plan: Plan) -> Tally:
    stop_at = time.time() + CONNECT_SECONDS + plan.seconds
    with subprocess.Popen(_command(plan, stop_at), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            before = [cpu_seconds(pids) for pids in (plan.server_pids, plan.database_pids, [wrk.pid])]
            time.sleep(max(stop_at - time.time(), 0))
            after = [cpu_seconds(pids) for pids in (plan.server_pids, plan.database_pids, [wrk.pid])]
            said = _to_its_end(wrk)
        finally:
            wrk.kill()
    server, database, client = (later - earlier for earlier, later in zip(before, after, strict=True))
    found = dict(re.findall(r"^(\w+) (.*)$", said, re.MULTILINE))
    if not {"begun_at", "counted", "acknowledged", "refused", "p50", "p99"} <= found.keys():
        raise WrkFailed(f"wrk came to nothing in {plan.run}:\n{said[-2000:]}")
    return Tally(
        charges=int(float(found["counted"])),
        seconds=stop_at - float(found["begun_at"]),
        p50_ms=float(found["p50"]) / 1000,
        p99_ms=float(found["p99"]) / 1000,
        server_cpu_seconds=server,
        database_cpu_seconds=database,
        client_cpu_seconds=client,
        acknowledged=int(float(found["acknowledged"])),
        refused=int(float(found["refused"])),
        refusal=found.get("refusal") or None,
    )


def _to_its_end(wrk: "subprocess.Popen[str]") -> str:
    """All that it says: it is told to end when every request is answered, or has waited too long for it."""
    told = threading.Timer(DRAIN_SECONDS, wrk.kill)
    told.start()
    said = ""
    for line in wrk.stdout or ():
        said += line
        if line == "done\n":
            wrk.send_signal(signal.SIGINT)
    told.cancel()
    return said


def _command(plan: Plan, stop_at: float) -> list[str]:
    shape = shape_of(plan)
    mark, marks = MARKS[plan.kind]
    counted = "reply" if plan.kind in scenarios.READS else "items"
    seed = zlib.crc32(plan.run.encode())
    longest = round(plan.seconds + CONNECT_SECONDS + 2 * DRAIN_SECONDS)
    return [
        program() or "wrk", "--threads=1", f"--connections={plan.connections}", f"--duration={longest}s",
        f"--timeout={longest}s", f"--script={SCRIPT}", f"http://127.0.0.1:{plan.port}", "--",
        shape.before, shape.item, str(shape.items), shape.after, str(shape.choices),
        mark, str(marks), counted, str(seed), f"{stop_at:.6f}",
    ]  # fmt: skip
