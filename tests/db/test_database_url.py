"""DATABASE_URL: what PostgreSQL documents for its URLs is honoured, and everything else is refused by its name."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.db import database_url
from app.errors import Misconfigured
from app.settings import Settings

NOTHING: dict[str, Any] = {"host": None, "port": None, "user": None, "password": None, "database": None}


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql://", {}),
        ("postgresql://db", {"host": ["db"]}),
        ("postgres://a:b@db:5433/c", {"host": ["db"], "port": [5433], "user": "a", "password": "b", "database": "c"}),
        ("postgresql:///c", {"database": "c"}),
        ("postgresql://a@/c?host=/run/pg&port=6", {"host": ["/run/pg"], "port": [6], "user": "a", "database": "c"}),
        ("postgresql://%2Frun%2Fpg/c", {"host": ["/run/pg"], "database": "c"}),
        ("postgresql://a%40b:p%2F%3A%25+%20@db/c%3Fd", {
            "host": ["db"], "user": "a@b", "password": "p/:%+ ", "database": "c?d",
        }),
        ("postgresql://a:p@ss@db/c", {"host": ["db"], "user": "a", "password": "p@ss", "database": "c"}),
        ("postgresql://a:p#s@db/c", {"host": ["db"], "user": "a", "password": "p#s", "database": "c"}),
        ("postgresql://[2001:db8::1]:5433/c", {"host": ["2001:db8::1"], "port": [5433], "database": "c"}),
        ("postgresql://[::1],10.0.0.1/c", {"host": ["::1", "10.0.0.1"], "database": "c"}),
        ("postgresql://h1:1,h2,h3:3/c", {"host": ["h1", "h2", "h3"], "port": [1, 5432, 3], "database": "c"}),
        ("postgresql:///c?host=h1,h2&port=1,2", {"host": ["h1", "h2"], "port": [1, 2], "database": "c"}),
        ("postgresql://h1,h2/c?port=7", {"host": ["h1", "h2"], "port": [7, 7], "database": "c"}),
        ("postgresql://a:b@h1:1/c?host=h2&port=2&user=d&password=e&dbname=f", {
            "host": ["h2"], "port": [2], "user": "d", "password": "e", "database": "f",
        }),
        ("postgresql://db?database=c", {"host": ["db"], "database": "c"}),
        ("postgresql://db/c?target_session_attrs=read-write", {
            "host": ["db"], "database": "c", "target_session_attrs": "read-write",
        }),
        ("postgresql://db/?sslmode=require", {"host": ["db"], "dsn": "postgresql://?sslmode=require"}),
        ("postgresql://db/?ssl=true", {"host": ["db"], "dsn": "postgresql://?sslmode=require"}),
        ("postgresql://db/?sslmode=", {"host": ["db"]}),
        ("postgresql://db/?sslmode=allow&sslmode=disable", {"host": ["db"], "dsn": "postgresql://?sslmode=disable"}),
        ("postgresql://db/?options=-c%20geqo%3Doff%20-c%20jit=off", {
            "host": ["db"], "dsn": "postgresql://?options=-c%20geqo%3Doff%20-c%20jit%3Doff",
        }),
        ("postgresql://db/?application_name=billing", {"host": ["db"], "dsn": "postgresql://?application_name=billing"}),
        ("postgresql://db/?fallback_application_name=b", {"host": ["db"], "dsn": "postgresql://?application_name=b"}),
        ("postgresql://db/?sslrootcert=system", {"host": ["db"], "ssl": True}),
        ("postgresql://db/?sslrootcert=system&sslmode=verify-full", {"host": ["db"], "ssl": True}),
        ("postgresql://db/?client_encoding=UTF8&channel_binding=prefer&gssencmode=disable&sslsni=1&sslcompression=0", {
            "host": ["db"],
        }),
        ("postgresql://db/?connect_timeout=5&keepalives=1&keepalives_idle=30&tcp_user_timeout=9000", {"host": ["db"]}),
    ],
)  # fmt: skip
def test_a_url_becomes_the_arguments_of_asyncpg(url: str, arguments: dict[str, Any]) -> None:
    assert database_url.connection_arguments(url) == NOTHING | arguments


def test_limits_of_time_are_taken_from_the_url() -> None:
    parsed = database_url.parse(
        "postgresql://db/?connect_timeout=7&keepalives=0&keepalives_idle=30&keepalives_interval=5&keepalives_count=3"
        "&tcp_user_timeout=9000"
    )

    assert parsed.connect_timeout_seconds == 7
    assert parsed.tcp_options == {
        "keepalives": 0, "keepalives_idle": 30, "keepalives_interval": 5, "keepalives_count": 3,
        "tcp_user_timeout": 9000,
    }  # fmt: skip


def test_a_connect_timeout_of_one_second_is_two_as_in_libpq() -> None:
    assert database_url.parse("postgresql://db/?connect_timeout=1").connect_timeout_seconds == 2


def test_files_of_certificates_are_passed_to_asyncpg(tmp_path: Path) -> None:
    names = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
    for name in names:
        (tmp_path / name).touch()
    query = "&".join(f"{name}={tmp_path / name}" for name in names)

    arguments = database_url.connection_arguments(f"postgresql://db/?sslmode=verify-ca&{query}&sslpassword=p%26q")

    assert arguments["passfile"] == str(tmp_path / "passfile")
    folder = str(tmp_path).replace("/", "%2F")
    assert arguments["dsn"] == (
        f"postgresql://?sslmode=verify-ca&sslrootcert={folder}%2Fsslrootcert&sslcert={folder}%2Fsslcert"
        f"&sslkey={folder}%2Fsslkey&sslcrl={folder}%2Fsslcrl&sslpassword=p%26q"
    )


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://db/c", f"it is not a URL of PostgreSQL: {database_url.SHAPE}"),
        ("postgresql:db", f"it is not a URL of PostgreSQL: {database_url.SHAPE}"),
        ("postgresql://a:canary/x@db/c", f"a port is not a number from 1 to 65535: {database_url.SHAPE}"),
        ("postgresql://db:0/c", f"a port is not a number from 1 to 65535: {database_url.SHAPE}"),
        ("postgresql://db:65536/c", f"a port is not a number from 1 to 65535: {database_url.SHAPE}"),
        ("postgresql://db:\u0665/c", f"a port is not a number from 1 to 65535: {database_url.SHAPE}"),
        ("postgresql://[::1/c", f"a host is not HOST:PORT or [IPV6]:PORT: {database_url.SHAPE}"),
        ("postgresql://[::1]x/c", f"a host is not HOST:PORT or [IPV6]:PORT: {database_url.SHAPE}"),
        ("postgresql://h1,,h2/c", "one of several hosts is empty: name each, separated by commas"),
        ("postgresql:///c?host=h1,h2,h3&port=1,2", "it has 2 ports for 3 hosts: give one port, or one for each host"),
        ("postgresql://a%00b@db/c", "it contains %00, which PostgreSQL does not accept"),
        ("postgresql://db/c?sslmode", "after `?` it must have NAME=VALUE, separated by &"),
        ("postgresql://db/c?=x", "after `?` it must have NAME=VALUE, separated by &"),
        ("postgresql://db/c?ssl=false", "`ssl` may only be true: set `sslmode` instead"),
        ("postgresql://db/c?sslmode=canary",
         "`sslmode` must be one of allow, disable, prefer, require, verify-ca, verify-full"),
        ("postgresql://db/c?sslmod=verify-full",
         "`sslmod` is not supported: for a setting of the server, write options=-c%20NAME%3DVALUE"),
        ("postgresql://db/c?statement_timeout=5s",
         "`statement_timeout` is not supported: for a setting of the server, write options=-c%20NAME%3DVALUE"),
        ("postgresql://db/c?service=prod", "`service` is not supported: write the values of the service into the URL"),
        ("postgresql://db/c?hostaddr=10.0.0.1", "`hostaddr` is not supported: write the address as the host"),
        ("postgresql://db/c?can%20ary=1",
         "`a parameter` is not supported: for a setting of the server, write options=-c%20NAME%3DVALUE"),
        ("postgresql://db/c?channel_binding=require",
         "`channel_binding` may only be disable or prefer: the driver of this server supports nothing else"),
        ("postgresql://db/c?client_encoding=latin1",
         "`client_encoding` may only be utf-8 or utf8: the driver of this server supports nothing else"),
        ("postgresql://db/c?connect_timeout=soon", "`connect_timeout` must be a whole number"),
        ("postgresql://db/c?tcp_user_timeout=-1", "`tcp_user_timeout` must be a whole number"),
        ("postgresql://db/c?connect_timeout=0",
         "`connect_timeout` must be at least 1: 0 would wait for a dead host without end"),
        ("postgresql://db/c?sslrootcert=/no/canary.crt",
         "`sslrootcert` names a file that does not exist or cannot be read"),
        ("postgresql://db/c?passfile=/no/canary", "`passfile` names a file that does not exist or cannot be read"),
        ("postgresql://db/c?sslrootcert=system&sslmode=require", "`sslrootcert=system` needs `sslmode=verify-full`"),
        ("postgresql://db/c?sslrootcert=system&sslpassword=canary",
         "`sslpassword` cannot be used with `sslrootcert=system`: name a file of root certificates"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name_and_without_its_value(url: str, problem: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        database_url.parse(url)

    assert str(refused.value) == f"DATABASE_URL: {problem}."
    assert "canary" not in str(refused.value)


def test_the_refusal_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        database_url,
        "get_settings",
        lambda: Settings(
            database_url=SecretStr("postgresql://db/c"), migration_database_url=SecretStr("postgresql://db:x/c")
        ),
    )

    with pytest.raises(Misconfigured, match=r"^MIGRATION_DATABASE_URL: a port is not a number"):
        database_url.parse("postgresql://db:x/c")


def test_a_parsed_url_does_not_show_its_secrets() -> None:
    parsed = database_url.parse("postgresql://a:canary@db/c?sslpassword=canary&options=-c%20x.y%3Dcanary")

    assert "canary" not in repr(parsed)


def test_a_certificate_that_is_not_trusted_is_one_sentence() -> None:
    failure = ssl.SSLCertVerificationError(1, "certificate verify failed")
    failure.verify_message = "self-signed certificate"

    assert database_url.problem_of("postgresql://db/c", failure) == (
        "The TLS connection of DATABASE_URL fails (self-signed certificate): check sslmode, sslrootcert, sslcert and "
        "sslkey in it."
    )
