"""Connections by DATABASE_URL: TLS, several hosts, parameters of the session, and databases that cannot be used."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.cli.checklist import database_checks
from app.cli.checklist.results import CheckFailed, Installation
from app.db import database_url as urls
from app.db import embedded_postgres, pools
from app.errors import Misconfigured
from app.settings import Settings
from tests.command_line import run_beside, run_process, temporary_directory
from tests.databases import execute
from tests.insecure_postgres import free_port

pytestmark = pytest.mark.anyio

PASSWORD = "p@ss:w/rd"
IN_URL = "p%40ss%3Aw%2Frd"


@dataclass(frozen=True, slots=True)
class NetworkPostgres:
    """A server on 127.0.0.1 that accepts `alice` by password, without TLS. `url`: by a Unix socket, as a superuser."""

    port: int
    url: str

    def as_alice(self, query: str = "", **changes: str | int) -> str:
        parts = {"host": "127.0.0.1", "port": self.port, "password": IN_URL, "name": "credits"} | changes
        return "postgresql://alice:{password}@{host}:{port}/{name}?".format(**parts) + query


@pytest.fixture(scope="module")
def server() -> Iterator[NetworkPostgres]:
    port = free_port()
    with temporary_directory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded_postgres, "PORT", port)
        patch.setattr(embedded_postgres, "SOCKET_NAME", f".s.PGSQL.{port}")
        changed = {"port": str(port), "listen_addresses": "127.0.0.1", "shared_buffers": "16MB", "fsync": "off"}
        for name, value in changed.items():
            patch.setitem(embedded_postgres.SETTINGS, name, value)
        with embedded_postgres.start(directory / "postgres") as started:
            rules = directory / "postgres" / "cluster" / "pg_hba.conf"
            rules.write_text("local all all trust\nhost credits,ascii,nowhere alice 127.0.0.1/32 scram-sha-256\n")
            asyncio.run(
                execute(
                    started.url,
                    "SELECT pg_reload_conf()",
                    f"CREATE ROLE alice LOGIN PASSWORD '{PASSWORD}'",
                    "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0",
                )
            )
            yield NetworkPostgres(port, started.url)


@dataclass(frozen=True, slots=True)
class TlsProxy:
    """Accepts TLS for a server without it. `certificate` is for localhost, and signed by itself."""

    port: int
    certificate: Path


@pytest.fixture
async def tls(server: NetworkPostgres, tmp_path: Path) -> AsyncIterator[TlsProxy]:
    write_certificate("localhost", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # a client that does not trust the certificate closes the connection
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)
            database_reader, database_writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(copy(reader, database_writer), copy(database_reader, writer))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield TlsProxy(listener.sockets[0].getsockname()[1], tmp_path / "server.crt")
    listener.close()


def write_certificate(name: str, place: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "server.key").write_bytes(private)
    (place / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """The port of a host that accepts connections and never answers, like one that has died."""

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(ignore, "127.0.0.1", 0)
    yield listener.sockets[0].getsockname()[1]
    listener.close()


async def value_of(url: str, sql: str) -> object:
    connection = await urls.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_the_certificate_of_the_server_is_verified(server: NetworkPostgres, tls: TlsProxy) -> None:
    query = f"sslmode=verify-full&sslrootcert={tls.certificate}&ssl_min_protocol_version=TLSv1.3"

    connection = await urls.connect(server.as_alice(query, host="localhost", port=tls.port))
    try:
        version = connection._transport.get_extra_info("ssl_object").version()
    finally:
        await connection.close()

    assert version == "TLSv1.3"


@pytest.mark.parametrize(
    ("query", "host", "reason"),
    [
        ("sslrootcert={certificate}", "127.0.0.1", "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        ("sslrootcert=system", "localhost", "self-signed certificate"),
    ],
)
async def test_a_certificate_that_is_not_valid_is_refused(
    server: NetworkPostgres, tls: TlsProxy, query: str, host: str, reason: str
) -> None:
    query = "sslmode=verify-full&" + query.format(certificate=tls.certificate)

    with pytest.raises(Misconfigured) as refused:
        await pools.connect(server.as_alice(query, host=host, port=tls.port))

    assert str(refused.value) == (
        f"The TLS connection of DATABASE_URL fails ({reason}): check sslmode, sslrootcert, sslcert and sslkey in it."
    )


async def test_parameters_reach_the_session(server: NetworkPostgres) -> None:
    url = server.as_alice(
        "application_name=billing&options=-c%20statement_timeout=7s%20-c%20search_path=public,pg_catalog"
    )
    await pools.connect(url)
    try:
        [session] = await pools.fetch(
            "SELECT current_setting('statement_timeout') AS timeout, current_setting('search_path') AS path, "
            "current_setting('application_name') AS name"
        )
        async with pools.posting_transaction() as connection:
            _, [posting] = await connection.execute_query(
                "SELECT current_setting('statement_timeout') AS timeout, current_setting('application_name') AS name, "
                "current_setting('enable_hashjoin') AS hashjoin"
            )
    finally:
        await pools.disconnect()

    assert dict(session) == {"timeout": "7s", "path": "public,pg_catalog", "name": "billing"}
    assert dict(posting) == {"timeout": "7s", "name": "billing-posting", "hashjoin": "off"}


async def test_options_of_tcp_are_set(server: NetworkPostgres) -> None:
    connection = await urls.connect(
        server.as_alice(
            "keepalives=1&keepalives_idle=31&keepalives_interval=7&keepalives_count=4&tcp_user_timeout=9000"
        )
    )
    try:
        found: socket.socket = connection._transport.get_extra_info("socket")
        values = [
            found.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        ]
    finally:
        await connection.close()

    assert values == [31, 7, 4, 9000]


@pytest.mark.parametrize("attributes", ["read-write", "prefer-standby"])
async def test_a_host_that_is_away_or_does_not_answer_is_passed_over(
    server: NetworkPostgres, silent_port: int, attributes: str
) -> None:
    closed = free_port()
    url = server.as_alice(f"target_session_attrs={attributes}&connect_timeout=2").replace(
        "@", f"@127.0.0.1:{closed},127.0.0.1:{silent_port},"
    )

    assert await value_of(url, "SELECT current_user") == "alice"


async def test_no_host_has_the_attributes(server: NetworkPostgres) -> None:
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await urls.connect(server.as_alice("target_session_attrs=standby").replace("@", f"@127.0.0.1:{server.port},"))


async def test_a_read_only_host_is_passed_over(server: NetworkPostgres) -> None:
    url = server.as_alice("options=-c%20default_transaction_read_only=on&target_session_attrs=read-write")

    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await urls.connect(url.replace("@", f"@127.0.0.1:{server.port},"))


async def test_a_wrong_password_ends_the_search(server: NetworkPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await urls.connect(server.as_alice(password="wrong").replace("@", f"@127.0.0.1:{server.port},"))


REFUSED = "The database refuses the role of DATABASE_URL, or its password: check both, and pg_hba.conf."
UNUSABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "password": (REFUSED, {"password": "wrong"}),
    "pg_hba": (REFUSED, {"name": "postgres"}),
    "database": (
        "The database named in DATABASE_URL does not exist: create it, or correct the name.",
        {"name": "nowhere"},
    ),
    "encoding": (
        (
            "The encoding of the database in DATABASE_URL is SQL_ASCII. Use a database with the encoding UTF8: "
            "`createdb --encoding UTF8 --template template0 NAME`."
        ),
        {"name": "ascii"},
    ),
    "parameter": (
        "DATABASE_URL: `sslmod` is not supported: for a setting of the server, write options=-c%20NAME%3DVALUE.",
        {"query": "sslmod=require"},
    ),
}
COMMANDS = (
    ("migrate",), ("verify",), ("grant", "alice", "1", "--reason", "test"), ("prices", "show"), ("keys", "list"),
    ("keys", "create", "a", "--scope", "read"), ("provider-events", "list"), ("token", "service", "a"),
)  # fmt: skip


@pytest.mark.parametrize("fault", UNUSABLE)
async def test_every_command_says_in_one_sentence_why_it_cannot_use_the_database(
    server: NetworkPostgres, fault: str, tmp_path: Path
) -> None:
    message, changes = UNUSABLE[fault]
    url = server.as_alice(**changes)

    for command in COMMANDS:
        done = await run_beside(*command, DATABASE_URL=url, DATA_DIR=str(tmp_path))

        assert (done.stdout, done.stderr) == ("", f"Error: {message}\n"), command
        assert done.returncode == (3 if command == ("verify",) else 1)


async def test_the_server_says_it_in_one_sentence_too(server: NetworkPostgres, tmp_path: Path) -> None:
    message, changes = UNUSABLE["database"]
    url = server.as_alice(**changes)

    done = await asyncio.to_thread(run_process, "serve", DATABASE_URL=url, DATA_DIR=str(tmp_path), PORT="0")

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {message}\n")


@pytest.mark.parametrize("fault", UNUSABLE)
async def test_the_check_says_the_same(server: NetworkPostgres, fault: str) -> None:
    message, changes = UNUSABLE[fault]
    installation = Installation(settings=Settings(), production=False, database_url=server.as_alice(**changes))

    with pytest.raises(CheckFailed) as failed:
        await database_checks.reachable(installation)

    assert failed.value.args == (message,)


async def test_a_host_without_tls_is_one_sentence(server: NetworkPostgres, tmp_path: Path) -> None:
    done = await run_beside("verify", DATABASE_URL=server.as_alice("sslmode=require"), DATA_DIR=str(tmp_path))

    assert done.stderr == (
        f'Error: The database cannot be reached (PostgreSQL server at "127.0.0.1:{server.port}" rejected SSL upgrade): '
        "start it, check DATABASE_URL, or unset it.\n"
    )
