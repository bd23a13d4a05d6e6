"""Parsing of DATABASE_URL, and connections to the database that it names.

The URL is a connection URI of PostgreSQL: postgresql://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME?PARAMETER=VALUE. The
parameters have the meaning that PostgreSQL documents (libpq-connect, "Parameter Key Words"). A parameter that is not
supported is refused, not ignored. For missing values asyncpg reads environment variables, such as PGPASSWORD.
"""

import os
import random
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import asyncpg

from app.db.failures import sqlstate
from app.errors import Misconfigured
from app.settings import get_settings, reveal
from app.wording import counted

DEFAULT_PORT: Final = 5432
SHAPE: Final = "write postgresql://USER:PASSWORD@HOST/NAME, with special characters of the password %-encoded"

_URL: Final = re.compile(
    r"postgres(?:ql)?://(?P<authority>[^/?]*)(?:/(?P<dbname>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL
)
_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[^:]*))?")
_ALIASES: Final = {"database": "dbname"}

_BY_ASYNCPG: Final = frozenset(
    {
        "sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib", "options",
    }
)  # fmt: skip
"""Parameters that asyncpg reads from a URL only. It sends `options` to the server."""
_WITHOUT_EFFECT: Final[Mapping[str, frozenset[str]]] = {
    "client_encoding": frozenset({"utf8", "utf-8"}),
    "channel_binding": frozenset({"disable", "prefer"}),
    "gssencmode": frozenset({"disable", "prefer"}),
    "sslcompression": frozenset({"0"}),
    "sslsni": frozenset({"1"}),
}
"""Parameters that are accepted only with these values, which describe what asyncpg always does."""
_CHOICES: Final[Mapping[str, frozenset[str]]] = {
    "sslmode": frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}),
    "sslnegotiation": frozenset({"postgres", "direct"}),
    "ssl_min_protocol_version": frozenset({"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}),
    "ssl_max_protocol_version": frozenset({"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}),
    "target_session_attrs": frozenset({"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}),
    "load_balance_hosts": frozenset({"disable", "random"}),
    "gsslib": frozenset({"gssapi"}),
    "keepalives": frozenset({"0", "1"}),
}
_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"})
_WHOLE_NUMBERS: Final = frozenset(
    {"connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"}
)
_OTHERS: Final = frozenset(
    {"host", "port", "dbname", "user", "password", "passfile", "application_name", "fallback_application_name"}
)
_KNOWN: Final = _BY_ASYNCPG | _WITHOUT_EFFECT.keys() | _CHOICES.keys() | _WHOLE_NUMBERS | _OTHERS

_TCP_OPTIONS: Final = {
    "keepalives": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "keepalives_idle": (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", None)),
    "keepalives_interval": (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None)),
    "keepalives_count": (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None)),
    "tcp_user_timeout": (socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None)),
}
"""The socket option of each parameter. None: the operating system does not have it. Then the parameter is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """A parsed URL, with one port for each host.

    If it names no host, `hosts` is empty: asyncpg then uses PGHOST, or the usual directories of sockets. If it names no
    port, `ports` is empty: asyncpg then uses PGPORT or 5432.
    """

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    password: str | None = field(repr=False)
    dbname: str | None
    parameters: Mapping[str, str] = field(repr=False)

    @property
    def application_name(self) -> str | None:
        return self.parameters.get("application_name") or self.parameters.get("fallback_application_name")

    @property
    def connect_timeout_seconds(self) -> int | None:
        """The time limit for connecting to one host, at least 2 as in libpq. None if the URL has none."""
        seconds = self.parameters.get("connect_timeout")
        return None if seconds is None else max(2, int(seconds))

    @property
    def tcp_options(self) -> dict[str, int]:
        """The parameters that set TCP options. `tcp_user_timeout` is in milliseconds, the others are in seconds."""
        return {name: int(self.parameters[name]) for name in _TCP_OPTIONS if name in self.parameters}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `asyncpg.connect`, without time limit and TCP options."""
        arguments: dict[str, Any] = {
            "host": list(self.hosts) or None,
            "port": list(self.ports) or None,
            "user": self.user,
            "password": self.password,
            "database": self.dbname,
        }
        for name in ("passfile", "target_session_attrs"):
            if name in self.parameters:
                arguments[name] = self.parameters[name]
        query = {name: value for name, value in self.parameters.items() if name in _BY_ASYNCPG}
        if (
            query.get("sslrootcert") == "system"
        ):  # the certificate authorities of the operating system, with verify-full
            query = {name: value for name, value in query.items() if not name.startswith("ssl")}
            arguments["ssl"] = True
        if self.application_name is not None:
            query["application_name"] = self.application_name
        if query:
            arguments["dsn"] = f"postgresql://?{urlencode(query, quote_via=quote)}"
        return arguments


@lru_cache(maxsize=16)
def parse(url: str) -> DatabaseUrl:
    """Parse a postgresql:// URL. Raises: Misconfigured: says what is wrong, without the value of any parameter."""
    try:
        return _parse(url)
    except _InvalidUrl as error:
        raise Misconfigured(f"{_setting_name(url)}: {error}.") from None


def connection_arguments(url: str) -> dict[str, Any]:
    """Return the arguments of `asyncpg.connect` for a URL. Raises: Misconfigured."""
    return parse(url).arguments()


async def connect(url: str, **more: Any) -> asyncpg.Connection:
    """Connect to the first host of the URL that responds and has the attributes that `target_session_attrs` requires.

    `more` are further arguments of `asyncpg.connect`. `timeout` counts for each host; `connect_timeout` in the URL
    replaces it.
    Raises: Misconfigured, OSError, asyncpg.PostgresError, asyncpg.InternalClientError.
    """
    parsed = parse(url)
    arguments = parsed.arguments() | more
    if parsed.connect_timeout_seconds is not None:
        arguments["timeout"] = parsed.connect_timeout_seconds
    if len(parsed.hosts) < 2:
        connection = await asyncpg.connect(**arguments)
    else:
        connection = await _connect_to_first(parsed, arguments)
    _set_tcp_options(connection, parsed.tcp_options)
    return connection


async def _connect_to_first(parsed: DatabaseUrl, arguments: dict[str, Any]) -> asyncpg.Connection:
    """Try the hosts one by one. Each has its own time limit, because a dead first host would use up a common one.

    As in libpq, an error of authentication ends the search.
    """
    addresses = list(zip_longest(parsed.hosts, parsed.ports))
    if parsed.parameters.get("load_balance_hosts") == "random":
        random.shuffle(addresses)
    wanted = arguments.pop("target_session_attrs", None) or os.environ.get("PGTARGETSESSIONATTRS") or "any"
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    failure: Exception = OSError("the URL names no host")
    for attributes in rounds:
        for host, port in addresses:
            try:
                return await asyncpg.connect(
                    **arguments | {"host": host, "port": port, "target_session_attrs": attributes}
                )
            except (
                OSError,
                asyncpg.CannotConnectNowError,
                asyncpg.ConnectionDoesNotExistError,
                asyncpg.TargetServerAttributeNotMatched,
            ) as error:
                failure = error
    raise failure


def _set_tcp_options(connection: asyncpg.Connection, options: Mapping[str, int]) -> None:
    found = connection._transport.get_extra_info("socket")
    if found is None or found.family == socket.AF_UNIX:
        return
    for name, value in options.items():
        level, option = _TCP_OPTIONS[name]
        if option is not None and (value or name == "keepalives"):  # 0 means the default of the operating system
            found.setsockopt(level, option, value)


def problem_of(url: str, error: Exception) -> str | None:
    """Return what is wrong with a URL after connecting has failed. None: the database may only be unreachable now."""
    name, state = _setting_name(url), sqlstate(error) or ""
    if state.startswith("28"):
        return f"The database refuses the role of {name}, or its password: check both, and pg_hba.conf."
    if state == "3D000":
        return f"The database named in {name} does not exist: create it, or correct the name."
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", None) or error.reason or "it is refused"
        return f"The TLS connection of {name} fails ({reason}): check sslmode, sslrootcert, sslcert and sslkey in it."
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return f"{name}: {error}."
    return None


def encoding_problem(url: str, encoding: str) -> str | None:
    """Return what is wrong with the encoding of the database. Texts of all languages need UTF8."""
    if encoding == "UTF8":
        return None
    return (
        f"The encoding of the database in {_setting_name(url)} is {encoding}. Use a database with the "
        "encoding UTF8: `createdb --encoding UTF8 --template template0 NAME`."
    )


class _InvalidUrl(Exception):
    """The URL cannot be used; the message says why."""


def _setting_name(url: str) -> str:
    settings = get_settings()
    is_of_migrations = url == reveal(settings.migration_database_url) and url != reveal(settings.database_url)
    return "MIGRATION_DATABASE_URL" if is_of_migrations else "DATABASE_URL"


def _parse(url: str) -> DatabaseUrl:
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _InvalidUrl(f"it is not a URL of PostgreSQL: {SHAPE}")
    login, _, host_list = parts["authority"].rpartition("@")
    user, _, password = login.partition(":")
    values = {name: unquote(text) for name, text in (("user", user), ("password", password)) if text}
    if parts["dbname"]:
        values["dbname"] = unquote(parts["dbname"])
    hosts_and_ports = [_split_host(text) for text in host_list.split(",")] if host_list else []
    values["host"] = ",".join(host for host, _ in hosts_and_ports)
    values["port"] = ",".join(port for _, port in hosts_and_ports)
    values = {name: value for name, value in values.items() if value.strip(",")}
    values |= _query_values(parts["query"] or "")
    if any("\0" in value for value in values.values()):
        raise _InvalidUrl("it contains %00, which PostgreSQL does not accept")
    hosts = tuple(values.pop("host", "").split(",")) if "host" in values else ()
    return DatabaseUrl(
        hosts=_valid_hosts(hosts),
        ports=_valid_ports(values.pop("port", ""), len(hosts)),
        user=values.pop("user", None),
        password=values.pop("password", None),
        dbname=values.pop("dbname", None),
        parameters=_valid_parameters(values),
    )


def _split_host(text: str) -> tuple[str, str]:
    """Split HOST:PORT or [IPV6]:PORT. The port may be missing."""
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None:
        raise _InvalidUrl(f"a host is not HOST:PORT or [IPV6]:PORT: {SHAPE}")
    return unquote(found["ipv6"] or found["host"]), unquote(found["port"] or "")


def _query_values(query: str) -> dict[str, str]:
    """Return the parameters after `?`.

    As in libpq, `+` is not a space, the last of two equal names counts, and an empty value means the default.
    """
    values: dict[str, str] = {}
    for part in query.split("&") if query else []:
        name, equals, value = part.partition("=")
        name = _ALIASES.get(unquote(name), unquote(name))
        if not equals or not name:
            raise _InvalidUrl("after `?` it must have NAME=VALUE, separated by &")
        if name == "ssl":  # of JDBC
            if value != "true":
                raise _InvalidUrl("`ssl` may only be true: set `sslmode` instead")
            name, value = "sslmode", "require"
        values[name] = unquote(value)
    return {name: value for name, value in values.items() if value}


def _valid_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    if not all(hosts):
        raise _InvalidUrl("one of several hosts is empty: name each, separated by commas")
    return tuple(hosts)


def _valid_ports(ports: str, hosts: int) -> tuple[int, ...]:
    """Return one port for each host, or none if all have the default. A single port counts for all hosts."""
    texts = ports.split(",") if ports else []
    if not all(not text or (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535) for text in texts):
        raise _InvalidUrl(f"a port is not a number from 1 to 65535: {SHAPE}")
    numbers = tuple(int(text or DEFAULT_PORT) for text in texts)
    if len(numbers) == 1:
        return numbers * max(hosts, 1)
    if numbers and len(numbers) != hosts:
        raise _InvalidUrl(
            f"it has {counted(len(numbers), 'port')} for {counted(hosts, 'host')}: give one port, or one for each host"
        )
    return numbers


def _valid_parameters(values: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in values.items():
        if name not in _KNOWN:
            raise _InvalidUrl(_unknown(name))
        if name in _CHOICES and value not in _CHOICES[name]:
            raise _InvalidUrl(f"`{name}` must be one of {', '.join(sorted(_CHOICES[name]))}")
        if name in _WITHOUT_EFFECT and value.lower() not in _WITHOUT_EFFECT[name]:
            allowed = " or ".join(sorted(_WITHOUT_EFFECT[name]))
            raise _InvalidUrl(f"`{name}` may only be {allowed}: the driver of this server supports nothing else")
        if name in _WHOLE_NUMBERS and not (value.isascii() and value.isdigit() and int(value) < 2**31):
            raise _InvalidUrl(f"`{name}` must be a whole number")
    if values.get("connect_timeout") == "0":
        raise _InvalidUrl("`connect_timeout` must be at least 1: 0 would wait for a dead host without end")
    for name in sorted(_FILES & values.keys()):
        if (name, values[name]) != ("sslrootcert", "system") and not os.access(values[name], os.R_OK):
            raise _InvalidUrl(f"`{name}` names a file that does not exist or cannot be read")
    _check_system_certificates(values)
    return {name: value for name, value in values.items() if name not in _WITHOUT_EFFECT}


def _check_system_certificates(values: Mapping[str, str]) -> None:
    if values.get("sslrootcert") != "system":
        return
    if others := sorted(name for name in values.keys() - {"sslrootcert", "sslmode"} if name.startswith("ssl")):
        raise _InvalidUrl(f"`{others[0]}` cannot be used with `sslrootcert=system`: name a file of root certificates")
    if values.get("sslmode", "verify-full") != "verify-full":
        raise _InvalidUrl("`sslrootcert=system` needs `sslmode=verify-full`")


def _unknown(name: str) -> str:
    shown = name if re.fullmatch(r"\w{1,40}", name, re.ASCII) else "a parameter"
    refusals: Mapping[str, str] = {
        "service": "write the values of the service into the URL",
        "hostaddr": "write the address as the host",
        "passwd": "the name is `password`",
    }
    advice = refusals.get(name, "for a setting of the server, write options=-c%20NAME%3DVALUE")
    return f"`{shown}` is not supported: {advice}"
