"""What is open to whom: the one place where production differs from development in what it lets in.

Closed by default in production, open in development: introspection, GraphiQL, suggestions, queries by GET, pages of any
origin, documents that are not known. Never there at all: the legacy graphql-ws subprotocol, multipart, batches.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from app.errors import Misconfigured
from app.settings import Settings

ARBITRARY_DOCUMENTS_IN_PRODUCTION: Final = ("services", "operators")
ARBITRARY_DOCUMENTS_IN_DEVELOPMENT: Final = ("anonymous", "users", "services", "operators")
MIN_DISTINCT_BYTES: Final = 12
"""32 random bytes hold some 30 different ones; below this somebody typed them."""
MIN_PASSWORD_LENGTH: Final = 16
"""Of a database that is reached over a network, in characters."""
MIN_DISTINCT_CHARACTERS: Final = 8
"""In such a password. 16 random hexadecimal digits hold some 10 different ones, 32 nearly all 16."""
COMMON_PASSWORDS: Final = frozenset(
    {"postgres", "password", "secret", "changeme", "change-me", "admin", "root", "credits"}
)
_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
_HOST: Final = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What this server lets in."""

    introspection: bool
    """Whether introspection, GraphiQL and suggestions are on."""
    get_queries: bool
    allowed_hosts: frozenset[str] | None
    """The names by which requests may address this server, without port; None: any."""
    allowed_origins: tuple[str, ...]
    """Pages of other hosts that may call: exact origins, or in development "*"."""
    websocket_origins: frozenset[str]
    """Pages that may open WebSockets, for which a browser asks nobody: `origins`, and production's own, by https."""
    same_host_websockets: bool
    """Whether besides any page of the host that it addresses may, by whatever scheme and port."""
    arbitrary_documents: tuple[str, ...]
    """Kinds of callers that may send documents that are not known."""
    summary: str
    """All of it in one line, for whoever starts the server."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """What these settings let in. Raises: Misconfigured: they let in too much, or a secret is weak."""
        production = settings.environment == "production"
        if production:
            for fault in (*weak_secrets(settings), *issuer_problems(settings), *webhook_problems(settings)):
                raise Misconfigured(fault)
        return (cls._of_production if production else cls._of_development)(settings)

    @classmethod
    def _of_production(cls, settings: Settings) -> Self:
        hosts, origins = production_hosts(settings), production_origins(settings)
        free_for = (
            ARBITRARY_DOCUMENTS_IN_PRODUCTION if settings.arbitrary_documents is None else settings.arbitrary_documents
        )
        return cls(
            introspection=False,
            get_queries=False,
            allowed_hosts=hosts,
            allowed_origins=origins,
            websocket_origins=frozenset({*origins, *(f"https://{host}" for host in hosts)}),
            same_host_websockets=False,
            arbitrary_documents=free_for,
            summary=(
                "PRODUCTION: no introspection, GraphiQL, suggestions or GET; "
                f"hosts: {', '.join(sorted(hosts))}; pages of other origins: {', '.join(origins) or 'none'}; "
                f"free documents: {', '.join(free_for) or 'nobody'}; known documents: "
                f"{settings.known_documents or 'NONE, so that nobody else can ask anything: set KNOWN_DOCUMENTS'}."
            ),
        )

    @classmethod
    def _of_development(cls, settings: Settings) -> Self:
        origins = _origins(settings) or ("*",)
        free_for = (
            ARBITRARY_DOCUMENTS_IN_DEVELOPMENT if settings.arbitrary_documents is None else settings.arbitrary_documents
        )
        return cls(
            introspection=True,
            get_queries=True,
            allowed_hosts=_hosts(settings),
            allowed_origins=origins,
            websocket_origins=frozenset(origins),
            same_host_websockets=True,
            arbitrary_documents=free_for,
            summary=(
                "DEVELOPMENT: introspection, GraphiQL, suggestions, GET, "
                f"{'pages of any origin, ' if '*' in origins else ''}{'free documents, ' if free_for else ''}"
                "ready-made tokens are OPEN. Set ENVIRONMENT=production before anybody else can reach this server."
            ),
        )


def production_hosts(settings: Settings) -> frozenset[str]:
    """The names by which production may be addressed. Raises: Misconfigured: there are none, or one is no name."""
    hosts = _hosts(settings)
    if hosts is None:
        raise Misconfigured("ALLOWED_HOSTS is not set: name the hosts by which clients reach this server.")
    return hosts


def production_origins(settings: Settings) -> tuple[str, ...]:
    """The origins whose pages may call production. Raises: Misconfigured: one is no origin, or is all of them."""
    origins = _origins(settings)
    if "*" in origins:
        raise Misconfigured('ALLOWED_ORIGINS is "*": production needs the exact origins of your pages.')
    return origins


def _hosts(settings: Settings) -> frozenset[str] | None:
    if settings.allowed_hosts is None:
        host = urlsplit(settings.public_url or "").hostname
        return frozenset({host}) if host and settings.environment == "production" else None
    for host in settings.allowed_hosts:
        if not _HOST.fullmatch(host.lower()):
            raise Misconfigured(f"ALLOWED_HOSTS: {host!r} is no host name: write credits.example.com, without port.")
    return frozenset(host.lower() for host in settings.allowed_hosts)


def _origins(settings: Settings) -> tuple[str, ...]:
    origins = tuple(origin.lower() for origin in settings.allowed_origins or ())
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise Misconfigured(f"ALLOWED_ORIGINS: {origin!r} is no origin: write https://app.example.com, no path.")
    return origins


def weak_secrets(settings: Settings) -> list[str]:
    """What production refuses to start with: secrets that anybody can guess, a sentence each."""
    found = []
    if _is_typed(settings.ledger_key):
        found.append("LEDGER_KEY is no random key: make one with `openssl rand -hex 32`.")
    if settings.ledger_key and settings.ledger_key.lower() in _others(settings):
        found.append("LEDGER_KEY is another setting's secret too: make one of its own with `openssl rand -hex 32`.")
    for name, url in (
        ("DATABASE_URL", settings.database_url),
        ("MIGRATION_DATABASE_URL", settings.migration_database_url),
    ):
        if _has_guessable_password(url):
            found.append(f"{name} has a password that anybody can guess: `openssl rand -hex 16` makes one.")
    return found


def _others(settings: Settings) -> set[str]:
    """The secrets beside LEDGER_KEY, in lower case: hexadecimal is the same key in either."""
    given = (
        settings.jwt_hs256_secret,
        settings.stripe_secret_key,
        settings.stripe_webhook_secret,
        settings.stripe_webhook_secret_previous,
    )
    passwords = [_Login.of(url).password for url in (settings.database_url, settings.migration_database_url) if url]
    return {secret.lower() for secret in (*(s.get_secret_value() for s in given if s is not None), *passwords)}


def issuer_problems(settings: Settings) -> list[str]:
    """Why production would take tokens that nobody issued for it."""
    if settings.jwt_issuer != Settings.model_fields["jwt_issuer"].default:
        return []
    return ["JWT_ISSUER is development's: set it to the `iss` of your identity provider's tokens."]


def webhook_problems(settings: Settings) -> list[str]:
    """Why production would hear of no payment."""
    if settings.payment_provider != "stripe" or settings.stripe_webhook_secret is not None:
        return []
    return ["STRIPE_WEBHOOK_SECRET is not set: no payment would ever be credited by its notice."]


@dataclass(frozen=True, slots=True)
class _Login:
    """What the address of a database says of who goes where; of what it does not say, nothing."""

    host: str
    user: str
    password: str

    @classmethod
    def of(cls, url: str) -> Self:
        """As `database.credentials` reads it."""
        address = urlsplit(url)
        more = dict(parse_qsl(address.query))
        return cls(
            host=more.get("host") or address.hostname or "localhost",
            user=unquote(address.username or "") or more.get("user", ""),
            password=unquote(address.password or "") or more.get("password", ""),
        )


def _has_guessable_password(url: str | None) -> bool:
    """Whether a password is tried first (a usual word, the user's own name), or is soon found over a network."""
    login = _Login.of(url or "")
    if not login.password:
        return False
    if login.password.lower() in COMMON_PASSWORDS or login.password == login.user:
        return True
    short = len(login.password) < MIN_PASSWORD_LENGTH or len(set(login.password)) < MIN_DISTINCT_CHARACTERS
    return short and not is_loopback(login.host)


def is_loopback(host: str) -> bool:
    """Whether `host` is a socket's directory or the loopback."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_typed(hexadecimal: str | None) -> bool:
    """Whether somebody typed this key. What is missing or too short is refused where the key is opened."""
    try:
        key = bytes.fromhex(hexadecimal or "")
    except ValueError:
        return False
    return bool(key) and len(set(key)) < MIN_DISTINCT_BYTES
