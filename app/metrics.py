"""Metrics of this process, in the format of Prometheus. `app.server.metrics_endpoint` serves them.

All metrics are declared here. Other modules record values in them, which takes about a microsecond. With several
workers, prometheus-client keeps the values in files of a directory (`PROMETHEUS_MULTIPROC_DIR`, which `serve` sets),
and any worker can report the sums.

Labels have few values: `operation` is the first field of a document, not the operation's name, which the client
chooses.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

REGISTRY: Final = CollectorRegistry()
"""The metrics of this process alone."""
DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

REQUESTS: Final = Histogram(
    "credits_request_seconds",
    "Duration of queries and mutations, by transport, first field and outcome (ok, or an error code).",
    ("transport", "operation", "outcome"),
    buckets=LATENCY_BUCKETS,
    registry=REGISTRY,
)
SUBSCRIPTIONS_ENDED: Final = Counter(
    "credits_subscriptions_ended",
    "Subscriptions that have ended, by transport, first field and outcome.",
    ("transport", "operation", "outcome"),
    registry=REGISTRY,
)
SUBSCRIPTIONS: Final = Gauge(
    "credits_subscriptions", "Open subscriptions.", registry=REGISTRY, multiprocess_mode="livesum"
)
CHARGES: Final = Counter("credits_charges", "Charges, by outcome.", ("outcome",), registry=REGISTRY)
CHARGE_BATCH_SIZE: Final = Histogram(
    "credits_charge_batch_size", "Charges of one transaction.", buckets=BATCH_BUCKETS, registry=REGISTRY
)
CHARGE_QUEUE_LENGTH: Final = Gauge(
    "credits_charge_queue_length",
    "Charges that wait for the next transaction, when the last one began.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
LOCK_WAIT: Final = Histogram(
    "credits_lock_wait_seconds",
    "Time of the statement that locks the accounts of a posting.",
    buckets=LATENCY_BUCKETS,
    registry=REGISTRY,
)
POOL_CONNECTIONS: Final = Gauge(
    "credits_pool_connections",
    "Database connections in use, by pool.",
    ("pool",),
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
POOL_WAIT: Final = Histogram(
    "credits_pool_wait_seconds",
    "Time that a caller waits for a database connection, by pool.",
    ("pool",),
    buckets=LATENCY_BUCKETS,
    registry=REGISTRY,
)
PUSH_DELAY: Final = Histogram(
    "credits_push_delay_seconds",
    "Time from the arrival of a change notification until the subscribers of the account have the new balance.",
    buckets=LATENCY_BUCKETS,
    registry=REGISTRY,
)
FEED_CONNECTED: Final = Gauge(
    "credits_change_feed_connected",
    "1 if every process receives change notifications, else 0: then changes arrive by the version sweep.",
    registry=REGISTRY,
    multiprocess_mode="livemin",
)
SWEEPS: Final = Gauge(
    "credits_sweep_last_success_timestamp_seconds",
    "When a background loop last succeeded, by name.",
    ("sweep",),
    registry=REGISTRY,
    multiprocess_mode="max",
)
CREDITS_MOVED: Final = Counter(
    "credits_moved", "Credits that entries moved, by kind and direction (in, out).", ("kind", "direction"),
    registry=REGISTRY,
)  # fmt: skip

_requests: dict[tuple[str, str, str], Histogram] = {}
_charges: dict[str, Counter] = {}
_moved: dict[tuple[str, bool], Counter] = {}


def record_request(transport: str, operation: str, outcome: str, seconds: float, *, is_subscription: bool) -> None:
    """Count a request that has ended."""
    if is_subscription:
        SUBSCRIPTIONS_ENDED.labels(transport, operation, outcome).inc()
        return
    key = (transport, operation, outcome)
    child = _requests.get(key)  # cached, because `labels` takes as long as `observe`
    if child is None:
        child = _requests[key] = REQUESTS.labels(*key)
    child.observe(seconds)


def record_charge(outcome: str) -> None:
    """Count a charge. The outcome is charged, free, replayed, or the name of the error."""
    child = _charges.get(outcome)
    if child is None:
        child = _charges[outcome] = CHARGES.labels(outcome)
    child.inc()


def record_entry(kind: str, credits: int) -> None:
    """Count the credits of a committed entry."""
    if not credits:
        return
    key = (kind, credits > 0)
    child = _moved.get(key)
    if child is None:
        child = _moved[key] = CREDITS_MOVED.labels(kind, "in" if credits > 0 else "out")
    child.inc(abs(credits))


def record_pushes(notified: Iterable[float]) -> None:
    """Record the push delay of states that subscribers have now. `notified`: when their notifications arrived."""
    now = time.monotonic()
    for at in notified:
        PUSH_DELAY.observe(now - at)


def mark_sweep(name: str) -> None:
    """Record that a background loop has succeeded now."""
    SWEEPS.labels(name).set(time.time())


@contextmanager
def open_subscription() -> Iterator[None]:
    """Count a subscription while the block runs."""
    SUBSCRIPTIONS.inc()
    try:
        yield
    finally:
        SUBSCRIPTIONS.dec()


def collected() -> CollectorRegistry:
    """Return the metrics of all workers, or those of this process if it is the only one."""
    directory = os.environ.get(DIRECTORY)
    if directory is None:
        return REGISTRY
    _forget_dead_processes(Path(directory))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=directory)  # type: ignore[no-untyped-call]  # no annotations
    return registry


def _forget_dead_processes(directory: Path) -> None:
    """Drop the gauges of processes that have ended, because a worker may have been replaced."""
    for file in directory.glob("gauge_live*_*.db"):
        process_id = file.stem.rpartition("_")[2]
        if process_id.isdigit() and not psutil.pid_exists(int(process_id)):
            mark_process_dead(int(process_id), str(directory))  # type: ignore[no-untyped-call]  # no annotations
