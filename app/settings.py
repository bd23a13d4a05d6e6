"""The settings: one frozen object, read from the environment.

The docstring of each setting is its documentation: `python -m app --help` and the documentation are generated from it.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _parse_days(value: object) -> tuple[int, ...]:
    """Reads `30,7,1`."""
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(parts, list | tuple):
        texts = [str(part).strip() for part in parts]
        if 1 <= len(texts) <= 10 and all(text.isascii() and text.isdigit() and len(text) <= 3 for text in texts):
            days = tuple(int(text) for text in texts)
            if all(1 <= day <= 365 for day in days):
                return days
    raise PydanticCustomError("days", "It must be 1 to 10 whole numbers of days from 1 to 365, such as 30,7,1")


def _parse_bonuses(value: object) -> tuple[tuple[int, int], ...] | None:
    """Reads `5000:500,10000:1500`, in any order. Returns: pairs of credits and bonus, sorted."""
    if value is None or isinstance(value, tuple):
        return value
    parts = [part.strip().split(":") for part in value.split(",")] if isinstance(value, str) else []
    if 1 <= len(parts) <= 20 and all(
        len(part) == 2 and all(text.isascii() and text.isdigit() and len(text) <= 12 for text in part) for part in parts
    ):
        bonuses = sorted((int(credits), int(bonus)) for credits, bonus in parts)
        is_unique = len({credits for credits, _ in bonuses}) == len(bonuses)
        if is_unique and all(credits and bonus for credits, bonus in bonuses):
            return tuple(bonuses)
    raise PydanticCustomError("bonuses", "It must be pairs of credits, CREDITS:BONUS, such as 5000:500,10000:1500")


def _parse_names(value: object) -> tuple[str, ...] | None:
    """Reads names separated by commas."""
    if value is None or isinstance(value, tuple):
        return value
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if 1 <= len(names) <= 50 and all(names):
        return tuple(dict.fromkeys(names))
    raise PydanticCustomError("names", "It must be 1 to 50 names, separated by commas")


def _parse_caller_kinds(value: object) -> tuple[str, ...] | None:
    """Reads kinds of callers separated by commas; `nobody` is none of them."""
    names = _parse_names(value)
    if names is None or names == ("nobody",):
        return None if names is None else ()
    if set(names) <= {"anonymous", "users", "services", "operators"}:
        return names
    raise PydanticCustomError("callers", "It must be some of anonymous,users,services,operators, or nobody")


Names = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_parse_names)]
CallerKinds = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_parse_caller_kinds)]
Days = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_parse_days)]
Bonuses = Annotated[tuple[tuple[int, int], ...] | None, NoDecode, BeforeValidator(_parse_bonuses)]
PostgresUrl = Annotated[str | None, Field(pattern=r"^postgres(ql)?://")]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=300)]


class Settings(BaseSettings):
    """All settings. The defaults suit development. An empty variable counts as unset."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True)

    environment: Literal["development", "production"] = "development"
    """production refuses development keys and closes introspection, GraphiQL and GET."""
    database_url: PostgresUrl = None
    """PostgreSQL 15 or newer. Unset: an embedded one is started, with its data in DATA_DIR."""
    migration_database_url: PostgresUrl = None
    """The same database, as the role that owns its tables, for migrations. Unset: DATABASE_URL."""
    data_dir: Path | None = None
    """Directory of the embedded PostgreSQL and of the development keys. Unset: .data in the checkout."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of server processes."""
    public_url: str | None = None
    """URL of this server for browsers, used in links to payment pages and receipts. Unset: http://HOST:PORT."""
    allowed_hosts: Names = None
    """Host names that requests may address, separated by commas. Unset: the host of PUBLIC_URL; in development any."""
    allowed_origins: Names = None
    """Other origins whose pages may call the API, separated by commas. Unset: none; in development any."""
    forwarded_allow_ips: Names = None
    """Addresses of proxies whose X-Forwarded-For header is trusted, separated by commas. Unset: 127.0.0.1."""
    known_documents: Path | None = None
    """Persisted GraphQL documents: a directory of *.graphql files, or a manifest."""
    arbitrary_documents: CallerKinds = None
    """Who may send documents that are not persisted: some of anonymous,users,services,operators, or nobody. Unset:
    services,operators; in development all."""
    ledger_key: str | None = None
    """Key of the entries' HMAC chain: at least 32 bytes in hex. Required in production."""
    jwt_issuer: str = "http://localhost/development"
    """Required `iss` of tokens."""
    jwt_audience: str = "credits"
    """Required `aud` of tokens."""
    jwks_url: str | None = None
    """URL of the public keys that verify tokens (JWKS). Unset: the development key pair."""
    jwt_hs256_secret: Annotated[SecretStr | None, Field(min_length=32)] = None
    """Shared secret of an issuer that signs tokens with HS256, at least 32 bytes. Instead of JWKS_URL."""
    jwt_admin_role: str = "credits-admin"
    """Role that makes the caller an operator."""
    jwt_roles_claim: str = "roles"
    """Claim with the roles of a caller."""
    jwt_organisations_claim: str = "organisations"
    """Claim with the organisations whose accounts a user may read."""
    posting_connections: Annotated[int, Field(ge=1, le=16)] = 2
    """Database connections for charges, per process. Each account always uses the same one."""
    batch_limit: Annotated[int, Field(ge=1, le=1000)] = 256
    """Maximum number of charges in one transaction."""
    queue_limit: Annotated[int, Field(ge=1, le=100_000)] = 4096
    """Charges that may wait for each posting connection. Further ones are refused with OVERLOADED."""
    compile_operations: Literal["on", "off"] = "on"
    """on: operations are compiled when they are first executed. off: graphql-core executes them."""
    request_seconds: Seconds = 15
    """Time within which a whole HTTP request must arrive, headers and body."""
    operation_seconds: Seconds = 30
    """Time limit of a query or mutation. Charges have no such limit; they wait in a queue of limited length."""
    rate_per_user: Rate = 50
    """Operations per second of one user, over all WORKERS. Bursts may use 5 seconds' worth at once. 0: no limit."""
    rate_per_address: Rate = 200
    """Operations per second of all users and anonymous callers of one address (IPv6: one /64 network). Rejected
    credentials and malformed requests count, too. 0: no limit."""
    rate_per_service: Rate = 2000
    """Operations per second of one service key or operator. Charges and holds do not count. 0: no limit."""
    operations_per_user: Positive = 50
    """Concurrent queries and mutations of one user, per process."""
    subscriptions_per_user: Positive = 200
    """Concurrent subscriptions of one user, per process."""
    connections_per_user: Positive = 20
    """WebSocket connections of one user, per process. A further one closes the oldest. The limit of a service key or
    operator is 2,000; that of connections of one address which are not authenticated yet is 1,000."""
    log_format: Literal["json", "text"] | None = None
    """json: one redacted object per line. Unset: json in production, text in development."""
    request_log: Literal["all", "without-charges", "none"] = "all"
    """Which operations are logged. Refused and failed ones always are."""
    read_connections: Annotated[int, Field(ge=1, le=100)] = 5
    """Database connections for reads, per process."""
    sweep_seconds: Annotated[float, Field(gt=0, le=5)] = 5.0
    """Interval at which versions are compared, in case a change notification was lost."""
    conflate_ms: Annotated[int, Field(ge=0, le=1000)] = 25
    """Changes of a balance within this time are sent as one."""
    low_balance_threshold: Annotated[int, Field(ge=0)] = 500
    """Available credits below which a balance is LOW, for accounts without a threshold of their own."""
    expiry_notification_days: Days = (30, 7, 1)
    """Days before the expiry of a grant at which its owner is notified, separated by commas."""
    payment_provider: Literal["sandbox", "stripe", "none"] = "sandbox"
    """stripe; sandbox: simulates payments, for development; none: credits are not sold."""
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    """Currency of top-ups."""
    minor_per_credit: Positive = 1
    """Price of one credit in minor units (1: one cent)."""
    top_up_minimum: Positive = 500
    """Minimum credits of a top-up."""
    top_up_multiple: Positive = 100
    """Credits of a top-up must be a multiple of this."""
    top_up_maximum: Positive = 1_000_000
    """Maximum credits of a top-up."""
    top_up_bonuses: Bonuses = None
    """Promotional credits for a top-up of at least so many credits: CREDITS:BONUS, such as 5000:500,10000:1500."""
    top_up_bonus_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """Days after which such a bonus expires."""
    receipt_seller: Annotated[str | None, Field(max_length=500)] = None
    """Name and address of the seller on receipts. A semicolon starts a new line."""
    sandbox_secret: str | None = None
    """Secret that signs the sandbox's webhooks. Unset: the development secret."""
    stripe_secret_key: SecretStr | None = None
    """API key of Stripe (sk_... or rk_...): a live key in production, a test key in development."""
    stripe_webhook_secret: SecretStr | None = None
    """Secret that signs Stripe's webhooks (whsec_...). Unset: webhooks are answered with 503, and Stripe repeats
    them."""
    stripe_webhook_secret_previous: SecretStr | None = None
    """The previous webhook secret, which is also accepted during a rotation."""
    stripe_automatic_tax: bool = False
    """Whether Stripe Tax calculates taxes and adds them to the price."""
    stripe_base_url: Annotated[str | None, Field(pattern=r"^https?://")] = None
    """URL of a substitute for Stripe's API, in development. Unset: Stripe's own."""


for _field in Settings.model_fields.values():  # docstrings may have several lines, descriptions have one
    _field.description = " ".join((_field.description or "").split())


def log_format(settings: Settings) -> Literal["json", "text"]:
    """The log format of this process."""
    return settings.log_format or ("json" if settings.environment == "production" else "text")


@cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def data_directory(settings: Settings | None = None) -> Path:
    """The absolute path of DATA_DIR, or of `.data` in the checkout. It may not exist yet."""
    return ((settings or get_settings()).data_dir or Path(__file__).resolve().parent.parent / ".data").absolute()


def server_url(settings: Settings | None = None) -> str:
    """The URL of the server for clients on this machine: http://HOST:PORT, or the loopback if HOST means all
    addresses."""
    settings = settings or get_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  compared, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
