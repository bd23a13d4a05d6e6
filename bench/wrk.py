"""Runs wrk as the client if it is installed. It is written in C and uses less CPU than `bench.http_client`.

wrk.lua builds the requests and counts the responses.
"""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from bench import workload
from bench.environment import BenchmarkFailed, cpu_seconds, run_module
from bench.workload import LoadPlan, LoadResult

SCRIPT: Final = Path(__file__).with_suffix(".lua")
OWN_CLIENT: Final = "bench.http_client"
WARM_UP_SECONDS: Final = 0.5
CONNECT_SECONDS: Final = 0.1
"""The time that wrk needs to open its connections. Its own measurement begins with its first request."""
DRAIN_TIMEOUT_SECONDS: Final = 60


def installed_wrk() -> str | None:
    return shutil.which("wrk")


def send_load(plan: LoadPlan) -> LoadResult:
    """Carry out the plan in another process, and wait for every response. Raises: BenchmarkFailed."""
    run = _run_wrk if installed_wrk() else _run_own_client
    warm_up = run(replace(plan, run=f"{plan.run}-warm", seconds=WARM_UP_SECONDS))
    result = run(plan)
    return replace(
        result,
        acknowledged=warm_up.acknowledged + result.acknowledged,
        refused=warm_up.refused + result.refused,
        refusal=warm_up.refusal or result.refusal,
    )


def _run_own_client(plan: LoadPlan) -> LoadResult:
    done = run_module(OWN_CLIENT, text=json.dumps(asdict(plan)))
    if done.returncode != 0:
        raise BenchmarkFailed(f"The client of {plan.run} failed:\n{done.stderr[-4000:]}")
    return LoadResult(**json.loads(done.stdout))


def _run_wrk(plan: LoadPlan) -> LoadResult:
    stop_at = time.time() + CONNECT_SECONDS + plan.seconds
    command = _wrk_command(plan, stop_at)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            before = [cpu_seconds(pids) for pids in (plan.server_pids, plan.database_pids)]
            time.sleep(max(stop_at - time.time(), 0))
            after = [cpu_seconds(pids) for pids in (plan.server_pids, plan.database_pids)]
            output = _read_to_end(wrk)
        finally:
            wrk.kill()
    server, database = (end - start for start, end in zip(before, after, strict=True))
    found = dict(re.findall(r"^(\w+) (.*)$", output, re.MULTILINE))
    if not {"begun_at", "counted", "acknowledged", "refused", "p50", "p99"} <= found.keys():
        raise BenchmarkFailed(f"wrk failed in {plan.run}:\n{output[-2000:]}")
    return LoadResult(
        charges=int(float(found["counted"])),
        seconds=stop_at - float(found["begun_at"]),
        p50_ms=float(found["p50"]) / 1_000,
        p99_ms=float(found["p99"]) / 1_000,
        server_cpu_seconds=server,
        database_cpu_seconds=database,
        acknowledged=int(float(found["acknowledged"])),
        refused=int(float(found["refused"])),
        refusal=found.get("refusal") or None,
    )


def _read_to_end(wrk: "subprocess.Popen[str]") -> str:
    """Stop wrk when its script reports that every request has a response, or after the timeout."""
    timer = threading.Timer(DRAIN_TIMEOUT_SECONDS, wrk.kill)
    timer.start()
    output = ""
    for line in wrk.stdout or ():
        output += line
        if line == "done\n":
            wrk.send_signal(signal.SIGINT)
    timer.cancel()
    return output


def _wrk_command(plan: LoadPlan, stop_at: float) -> list[str]:
    template = workload.template_of(plan)
    marker, markers = workload.MARKERS[plan.request]
    counted = "response" if plan.counts_responses else "items"
    seed = zlib.crc32(plan.run.encode())
    longest = round(plan.seconds + CONNECT_SECONDS + 2 * DRAIN_TIMEOUT_SECONDS)
    return [
        installed_wrk() or "wrk", "--threads=1", f"--connections={plan.connections}", f"--duration={longest}s",
        f"--timeout={longest}s", f"--script={SCRIPT}", f"http://127.0.0.1:{plan.port}", "--",
        template.before, template.item, str(template.items), template.after, str(template.choices),
        marker, str(markers), counted, str(seed), f"{stop_at:.6f}",
    ]  # fmt: skip
