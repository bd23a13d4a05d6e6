"""Stopping: functions are called once it begins, and a process that does not stop in time exits."""

import signal
import subprocess
import sys

from app.server.stopping import Stopping
from tests.command_line import REPOSITORY

SERVER_THAT_HANGS = """
import asyncio, signal
from app.server import stopping

async def serve():
    signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
    stopping.stop_at_signals([signal.SIGTERM], seconds=0.2)
    begun = asyncio.Event()
    with stopping.STOPPING.calls(begun.set):
        print("ready", flush=True)
        await begun.wait()
    print("begun", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue

asyncio.run(serve())
"""


def test_functions_are_called_when_it_begins_and_at_once_afterwards() -> None:
    stopping, called = Stopping(), []
    with stopping.calls(lambda: called.append("ended before")):
        pass
    with stopping.calls(lambda: called.append("before")):
        stopping.begin()
    with stopping.calls(lambda: called.append("after")):
        assert called == ["before", "after"]


def test_a_process_that_does_not_stop_exits_with_status_1_after_any_number_of_signals() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER_THAT_HANGS],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "handled\n"
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (1, "handled\n")
    assert errors == "The server did not stop in time and is ended.\n"
