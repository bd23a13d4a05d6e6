"""Both clients of the bench, against a server of its own: they send, count and wait alike."""

from collections.abc import Iterator

import pytest

from bench import client, servers, wrk
from bench.requests import Kind, Plan
from bench.servers import Server
from bench.tally import Tally


@pytest.fixture(scope="module")
def route(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.running("floor", "bench.plain_route", place=tmp_path_factory.mktemp("floor")) as server:
        yield server


@pytest.fixture(params=["wrk", client.OWN])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The client that `client.carry_out` takes."""
    name: str = request.param
    if name == client.OWN:
        monkeypatch.setattr(wrk, "program", lambda: None)
    elif wrk.program() is None:
        pytest.skip("wrk is not installed here")
    assert client.name() == name
    return name


def sent(route: Server, kind: Kind, *, warm_up_seconds: float = 0.0) -> Tally:
    plan = Plan(
        kind=kind, load="many", port=route.port, key="k", run="run", connections=3, warm_up_seconds=warm_up_seconds,
        seconds=0.4, server_pids=[route.pid], database_pids=[],
    )  # fmt: skip
    return client.carry_out(plan)


@pytest.mark.usefixtures("chosen")
def test_what_is_answered_as_it_should_be_is_counted(route: Server) -> None:
    tally = sent(route, "floor")

    assert tally.charges > 50
    under_way = 3 * 2  # a request of each connection when it begins to count, and one when it ends
    assert tally.charges <= tally.acknowledged <= tally.charges + under_way
    assert (tally.refused, tally.refusal) == (0, None)
    assert 0.3 < tally.seconds < 2
    assert 0 < tally.p50_ms <= tally.p99_ms
    assert tally.server_cpu_seconds > 0


@pytest.mark.usefixtures("chosen")
def test_what_was_sent_before_it_counted_is_acknowledged_too(route: Server) -> None:
    tally = sent(route, "floor", warm_up_seconds=0.4)

    assert tally.acknowledged > tally.charges * 1.2


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize(("kind", "each"), [("charge", 1), ("batch", 100), ("library", 1)])
def test_another_answer_is_a_refusal_and_is_shown(route: Server, kind: Kind, each: int) -> None:
    tally = sent(route, kind)  # the route is not at that address

    assert (tally.charges, tally.acknowledged) == (0, 0)
    assert tally.refused > each
    assert tally.refused % each == 0
    assert tally.refusal is not None
    assert "404" in tally.refusal
    assert "Not Found" in tally.refusal


def test_a_server_that_is_not_there_is_told_of(chosen: str, free_tcp_port: int) -> None:
    gone = Server(pid=1, port=free_tcp_port)

    with pytest.raises(client.ClientFailed, match="wrk came to nothing" if chosen == "wrk" else "refused"):
        sent(gone, "floor")


def test_a_client_that_ends_badly_says_what_it_said(route: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrk, "program", lambda: None)
    monkeypatch.setattr(client, "OWN", "bench.no_client")

    with pytest.raises(client.ClientFailed, match=r"No module named .*no_client"):
        sent(route, "floor")
