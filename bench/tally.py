"""What came of a measurement."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts are of charges (of requests at the floor, of reads), latencies of requests; both of the `seconds` after
    the warm-up. `acknowledged` counts from the first request to the last."""

    charges: int
    seconds: float
    p50_ms: float
    p99_ms: float
    server_cpu_seconds: float
    database_cpu_seconds: float
    client_cpu_seconds: float = 0.0
    acknowledged: int = 0
    refused: int = 0
    refusal: str | None = None
    """The first reply that was not what it should be."""


def percentile(values: list[float], percent: int) -> float:
    """0 where there is no value."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
