"""What the server exposes: which requests it accepts in production and in development.

By default, only development allows introspection, GraphiQL, suggestions in error messages, queries by GET and pages of
any origin, and lets users send documents that are not persisted. Neither allows the legacy graphql-ws subprotocol,
multipart requests or batches.
"""

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from app.errors import Misconfigured
from app.server.production_checks import issuer_problems, weak_secrets, webhook_problems
from app.settings import Settings
from app.wording import quote_value

ARBITRARY_DOCUMENTS_IN_PRODUCTION: Final = ("services", "operators")
ARBITRARY_DOCUMENTS_IN_DEVELOPMENT: Final = ("anonymous", "users", "services", "operators")
_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
_HOST: Final = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What this server accepts."""

    introspection: bool
    """Whether introspection, GraphiQL and suggestions are available."""
    get_queries: bool
    """Whether queries may be sent by GET."""
    allowed_hosts: frozenset[str] | None
    """Host names that requests may address, without port. None means any."""
    allowed_origins: tuple[str, ...]
    """Origins whose pages may call the API (CORS). "*" means any, and is allowed only in development."""
    websocket_origins: frozenset[str]
    """Origins whose pages may open WebSockets: `allowed_origins`, and in production https://HOST for each allowed host.
    CORS does not apply to WebSockets."""
    same_host_websockets: bool
    """Whether any page of the addressed host may open a WebSocket, with any scheme and port."""
    arbitrary_documents: tuple[str, ...]
    """Kinds of callers that may send documents that are not persisted."""
    summary: str
    """A line for the log that describes the other fields."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Decide what these settings expose.

        Raises: Misconfigured: in production, a setting is insecure, or the hosts or origins are missing or too wide.
        """
        if settings.environment == "development":
            return cls._of_development(settings)
        if problems := [*weak_secrets(settings), *issuer_problems(settings), *webhook_problems(settings)]:
            raise Misconfigured("\n".join(problems))
        return cls._of_production(settings)

    @classmethod
    def _of_production(cls, settings: Settings) -> Self:
        hosts, origins = production_hosts(settings), production_origins(settings)
        arbitrary_documents = (
            ARBITRARY_DOCUMENTS_IN_PRODUCTION if settings.arbitrary_documents is None else settings.arbitrary_documents
        )
        return cls(
            introspection=False,
            get_queries=False,
            allowed_hosts=hosts,
            allowed_origins=origins,
            websocket_origins=frozenset({*origins, *(f"https://{host}" for host in hosts)}),
            same_host_websockets=False,
            arbitrary_documents=arbitrary_documents,
            summary=(
                "PRODUCTION: introspection, GraphiQL, suggestions and GET are off; "
                f"hosts: {', '.join(sorted(hosts))}; other origins: {', '.join(origins) or 'none'}; "
                f"arbitrary documents: {', '.join(arbitrary_documents) or 'nobody'}; persisted documents: "
                f"{settings.known_documents or 'NONE, so other callers can send no operation: set KNOWN_DOCUMENTS'}."
            ),
        )

    @classmethod
    def _of_development(cls, settings: Settings) -> Self:
        origins = _origins(settings) or ("*",)
        arbitrary_documents = (
            ARBITRARY_DOCUMENTS_IN_DEVELOPMENT if settings.arbitrary_documents is None else settings.arbitrary_documents
        )
        return cls(
            introspection=True,
            get_queries=True,
            allowed_hosts=_hosts(settings),
            allowed_origins=origins,
            websocket_origins=frozenset(origins),
            same_host_websockets=True,
            arbitrary_documents=arbitrary_documents,
            summary=(
                "DEVELOPMENT: introspection, GraphiQL, suggestions, GET, "
                f"{'any origin, ' if '*' in origins else ''}{'arbitrary documents, ' if arbitrary_documents else ''}"
                "development tokens are OPEN. Set ENVIRONMENT=production before others can reach this server."
            ),
        )


def production_hosts(settings: Settings) -> frozenset[str]:
    """Return the host names of a production server. Raises: Misconfigured: there is none, or one is invalid."""
    hosts = _hosts(settings)
    if hosts is None:
        raise Misconfigured("ALLOWED_HOSTS is not set: list the host names that clients use for this server.")
    return hosts


def production_origins(settings: Settings) -> tuple[str, ...]:
    """Return the origins whose pages may call a production server. Raises: Misconfigured: one is invalid or "*"."""
    origins = _origins(settings)
    if "*" in origins:
        raise Misconfigured('ALLOWED_ORIGINS is "*": production requires the exact origins of your pages.')
    return origins


def _hosts(settings: Settings) -> frozenset[str] | None:
    if settings.allowed_hosts is None:
        host = urlsplit(settings.public_url or "").hostname
        return frozenset({host}) if host and settings.environment == "production" else None
    for host in settings.allowed_hosts:
        if not _HOST.fullmatch(host.lower()):
            raise Misconfigured(
                f"ALLOWED_HOSTS: {quote_value(host)} is not a host name: write credits.example.com, without port."
            )
    return frozenset(host.lower() for host in settings.allowed_hosts)


def _origins(settings: Settings) -> tuple[str, ...]:
    origins = tuple(origin.lower() for origin in settings.allowed_origins or ())
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise Misconfigured(
                f"ALLOWED_ORIGINS: {quote_value(origin)} is not an origin: write "
                "https://app.example.com, without a path."
            )
    return origins
