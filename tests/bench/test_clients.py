"""Both clients, wrk and the benchmark's own, send, count and wait alike."""

from collections.abc import Iterator

import pytest

from bench import environment, wrk
from bench.environment import BenchmarkFailed, Server
from bench.workload import LoadPlan, LoadResult, Request


@pytest.fixture(scope="module")
def route(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with environment.running_server(
        "route", "bench.reference_servers", "route", directory=tmp_path_factory.mktemp("route")
    ) as server:
        yield server


@pytest.fixture(params=["wrk", wrk.OWN_CLIENT])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == wrk.OWN_CLIENT:
        monkeypatch.setattr(wrk, "installed_wrk", lambda: None)
    elif wrk.installed_wrk() is None:
        pytest.skip("wrk is not installed")
    return name


def send(route: Server, request: Request) -> LoadResult:
    plan = LoadPlan(
        request=request, load="many", port=route.port, key="k", run="run", connections=3,
        seconds=0.4, server_pids=[route.pid], database_pids=[],
    )  # fmt: skip
    return wrk.send_load(plan)


@pytest.mark.usefixtures("client")
def test_expected_responses_are_counted_and_those_of_the_warm_up_only_acknowledged(route: Server) -> None:
    result = send(route, "route")

    assert result.charges > 50
    assert result.acknowledged > result.charges * 1.2  # those of the warm-up too
    assert (result.refused, result.refusal) == (0, None)
    assert 0.3 < result.seconds < 2
    assert 0 < result.p50_ms <= result.p99_ms
    assert result.server_cpu_seconds > 0


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize(("request_kind", "each"), [("batch", 100), ("library", 1)])
def test_any_other_response_is_a_refusal_and_the_first_is_kept(route: Server, request_kind: Request, each: int) -> None:
    result = send(route, request_kind)  # the route takes single charges

    assert (result.charges, result.acknowledged) == (0, 0)
    assert result.refused > each
    assert result.refused % each == 0
    assert result.refusal is not None
    assert "takes single charges" in result.refusal


def test_a_server_that_does_not_listen_is_reported(client: str, free_tcp_port: int) -> None:
    with pytest.raises(BenchmarkFailed, match="wrk failed" if client == "wrk" else "refused"):
        send(Server(pid=1, port=free_tcp_port), "route")


def test_a_client_that_fails_is_reported_with_its_output(route: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "installed_wrk", lambda: None)
    monkeypatch.setattr(wrk, "OWN_CLIENT", "bench.no_client")

    with pytest.raises(BenchmarkFailed, match=r"No module named .*no_client"):
        send(route, "route")
