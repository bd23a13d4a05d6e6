"""The settings: one frozen object, read from the environment.

The docstring of each setting is its documentation: `python -m app --help` and the documentation are generated from it.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.credits import MAX_CREDITS


def _parse_days(value: object) -> tuple[int, ...]:
    """Parse `30,7,1`."""
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(parts, list | tuple):
        texts = [str(part).strip() for part in parts]
        if 1 <= len(texts) <= 10 and all(text.isascii() and text.isdigit() and len(text) <= 3 for text in texts):
            days = tuple(int(text) for text in texts)
            if all(1 <= day <= 365 for day in days):
                return days
    raise PydanticCustomError("days", "It must be 1 to 10 whole numbers of days from 1 to 365, such as 30,7,1")


def _parse_bonuses(value: object) -> tuple[tuple[int, int], ...] | None:
    """Parse `5000:500,10000:1500`, in any order. Returns: sorted pairs of credits and bonus."""
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
    """Parse names separated by commas."""
    if value is None or isinstance(value, tuple):
        return value
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if 1 <= len(names) <= 50 and all(names):
        return tuple(dict.fromkeys(names))
    raise PydanticCustomError("names", "It must be 1 to 50 names, separated by commas")


def _parse_caller_kinds(value: object) -> tuple[str, ...] | None:
    """Parse kinds of callers separated by commas. `nobody` means none of them."""
    names = _parse_names(value)
    if names is None or names == ("nobody",):
        return None if names is None else ()
    if set(names) <= {"anonymous", "users", "services", "operators"}:
        return names
    raise PydanticCustomError("callers", "It must be some of anonymous,users,services,operators, or nobody")


def _check_postgres_url(value: SecretStr | None) -> SecretStr | None:
    """Check the scheme. `app.db.database_url` checks the rest, when the URL is used."""
    if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise PydanticCustomError("postgres_url", "It must be postgresql://USER:PASSWORD@HOST/NAME")
    return value


Names = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_parse_names)]
CallerKinds = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_parse_caller_kinds)]
Days = Annotated[tuple[int, ...], NoDecode, BeforeValidator(_parse_days)]
Bonuses = Annotated[tuple[tuple[int, int], ...] | None, NoDecode, BeforeValidator(_parse_bonuses)]
PostgresUrl = Annotated[SecretStr | None, AfterValidator(_check_postgres_url)]
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
TopUpCredits = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""Even with the largest MINOR_PER_CREDIT, a price is less than 2^53."""
Rate = Annotated[float, Field(ge=0, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=300)]


class Settings(BaseSettings):
    """All settings. The defaults are for development. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # a traceback must not contain a secret
    )

    environment: Literal["development", "production"] = "development"
    """production: development keys are refused; introspection, GraphiQL and queries by GET are disabled."""
    database_url: PostgresUrl = None
    """PostgreSQL 15 or newer. If unset, an embedded PostgreSQL is started, with its data in DATA_DIR."""
    migration_database_url: PostgresUrl = None
    """The same database for migrations, as the role that owns its tables. If unset, DATABASE_URL is used."""
    data_dir: Path | None = None
    """Directory of the embedded PostgreSQL and of the development keys. If unset, .data in the checkout."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Number of server processes."""
    public_url: str | None = None
    """URL of this server for browsers, used in links to payment pages and receipts. If unset, http://HOST:PORT."""
    allowed_hosts: Names = None
    """Host names that requests may address, separated by commas.

    If unset, only the host of PUBLIC_URL; in development any.
    """
    allowed_origins: Names = None
    """Other origins whose pages may call the API, separated by commas.

    If unset, no other origin; in development any.
    """
    forwarded_allow_ips: Names = None
    """Addresses of proxies whose X-Forwarded-For header is trusted, separated by commas. If unset, 127.0.0.1."""
    known_documents: Path | None = None
    """Persisted GraphQL documents: a directory of *.graphql files, or a manifest."""
    arbitrary_documents: CallerKinds = None
    """Callers that may send documents that are not persisted: some of anonymous,users,services,operators, or nobody.

    If unset, services,operators; in development all.
    """
    ledger_key: SecretStr | None = None
    """Key that signs the entries (HMAC chain) and receipts, at least 32 bytes in hex. Required in production."""
    ledger_verification_keys: SecretStr | None = None
    """Other ledger keys, separated by commas, which only verify: all earlier keys, and a new key before it signs."""
    jwt_issuer: str = "http://localhost/development"
    """Required `iss` of tokens."""
    jwt_audience: str = "credits"
    """Required `aud` of tokens."""
    jwks_url: str | None = None
    """URL of the public keys that verify tokens (JWKS). If unset, the development key pair is used."""
    jwt_hs256_secret: Annotated[SecretStr | None, Field(min_length=32)] = None
    """Shared secret of an issuer that signs tokens with HS256, at least 32 bytes. It replaces JWKS_URL."""
    jwt_admin_role: str = "credits-admin"
    """Role that makes the caller an operator."""
    jwt_audience_claim: str = "aud"
    """Claim that contains the audience, for issuers whose tokens have no `aud`: a name or a dotted path."""
    jwt_roles_claim: str = "roles"
    """Claim that contains the roles of a caller: a name or a dotted path, such as realm_access.roles.

    The claim may be a string, a list of strings, or an object whose keys are the roles.
    """
    jwt_organisations_claim: str = "organisations"
    """Claim that contains the organisations whose accounts a user may read, in the same forms."""
    posting_connections: Annotated[int, Field(ge=1, le=16)] = 2
    """Database connections for charges, per process. Each account always uses the same one."""
    batch_limit: Annotated[int, Field(ge=1, le=1000)] = 256
    """Maximum number of charges in one transaction."""
    queue_limit: Annotated[int, Field(ge=1, le=100_000)] = 4096
    """Maximum number of charges that wait for one posting connection. Further charges are refused with OVERLOADED."""
    compile_operations: Literal["on", "off"] = "on"
    """on: operations are compiled when they are first executed, those of persisted documents when the server starts.

    off: graphql-core executes all operations.
    """
    request_seconds: Seconds = 15
    """Time within which a whole HTTP request, with headers and body, must arrive."""
    operation_seconds: Seconds = 30
    """Time limit of a query or mutation. It does not apply to charges, which wait in a queue of limited length."""
    connect_seconds: Seconds = 3
    """Time within which a database connection must be free, or a new one open. Afterwards the answer is UNAVAILABLE."""
    lock_seconds: Annotated[float, Field(gt=0, le=60)] = 5
    """Time for which a request waits for an account that another transaction has locked.

    Afterwards the answer is UNAVAILABLE. Requests for other accounts go on.
    """
    statement_seconds: Seconds = 5
    """Time limit of a statement of the database. Afterwards the answer is TIMED_OUT.

    If the database does not respond, its connections are closed one second later. Commands such as verify and migrate
    have no limit.
    """
    rate_per_user: Rate = 50
    """Operations per second of one user. A user may send the operations of 5 seconds at once. 0: no limit.

    Each server process (WORKERS) counts this rate and the following ones separately.
    """
    rate_per_address: Rate = 200
    """Operations per second of all users and anonymous callers of one address (IPv6: one /64 network).

    Rejected credentials and malformed requests count, too. Unknown service keys are looked up at most at this rate. 0:
    no limit.
    """
    rate_per_service: Rate = 2000
    """Operations per second of one service key or operator. Charges and holds do not count. 0: no limit."""
    operations_per_user: Positive = 50
    """Maximum number of concurrent queries and mutations of one user, per process."""
    subscriptions_per_user: Positive = 200
    """Maximum number of concurrent subscriptions of one user, per process."""
    connections_per_user: Positive = 20
    """Maximum number of WebSocket connections of one user, per process. A further connection closes the oldest.

    The maximum is 2,000 for a service key or operator, and 1,000 for connections of one address that are not
    authenticated yet.
    """
    log_format: Literal["json", "text"] | None = None
    """json: one redacted object per line. If unset, json in production and text in development."""
    request_log: Literal["all", "without-charges", "none"] = "all"
    """Operations that are logged. Refused and failed operations are always logged."""
    metrics_token: SecretStr | None = None
    """Bearer token for GET /metrics. If unset, the metrics are off in production, and open in development."""
    traces: Literal["off", "otlp"] = "off"
    """otlp: send OpenTelemetry traces to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names."""
    read_connections: Annotated[int, Field(ge=1, le=100)] = 5
    """Database connections for reads, per process."""
    sweep_seconds: Annotated[float, Field(gt=0, le=5)] = 5.0
    """Interval at which the versions of accounts with subscribers are read, because notifications may be lost."""
    conflate_ms: Annotated[int, Field(ge=0, le=1000)] = 25
    """Changes of a balance within this time are sent as one change."""
    low_balance_threshold: Annotated[int, Field(ge=0, le=MAX_CREDITS)] = 500
    """Number of available credits below which a balance is LOW, for accounts without their own threshold."""
    expiry_notification_days: Days = (30, 7, 1)
    """Days before the expiry of a grant at which its owner is notified, separated by commas."""
    payment_provider: Literal["sandbox", "stripe", "none"] = "sandbox"
    """stripe; sandbox: payments are simulated, for development; none: credits are not sold."""
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    """Currency of top-ups."""
    minor_per_credit: Positive = 1
    """Price of one credit in minor units (1: one cent)."""
    top_up_minimum: TopUpCredits = 500
    """Minimum credits of a top-up."""
    top_up_multiple: TopUpCredits = 100
    """Credits of a top-up must be a multiple of this."""
    top_up_maximum: TopUpCredits = 1_000_000
    """Maximum credits of a top-up."""
    top_up_bonuses: Bonuses = None
    """Promotional credits for a top-up of at least so many credits: CREDITS:BONUS, such as 5000:500,10000:1500."""
    top_up_bonus_days: Annotated[int, Field(ge=1, le=3650)] = 365
    """Days after which the promotional credits of a top-up expire."""
    receipt_seller: Annotated[str | None, Field(max_length=500)] = None
    """Name and address of the seller on receipts. A semicolon starts a new line."""
    sandbox_secret: SecretStr | None = None
    """Secret that signs the sandbox's webhooks. If unset, the development secret is used."""
    stripe_secret_key: SecretStr | None = None
    """API key of Stripe (sk_... or rk_...): a live key in production, a test key in development."""
    stripe_webhook_secret: SecretStr | None = None
    """Secret that signs Stripe's webhooks (whsec_...).

    If unset, the response to webhooks is 503, and Stripe repeats them.
    """
    stripe_webhook_secret_previous: SecretStr | None = None
    """The previous webhook secret. It is accepted as well while a new one replaces it."""
    stripe_automatic_tax: bool = False
    """Whether Stripe Tax calculates taxes and adds them to the price."""
    stripe_base_url: Annotated[str | None, Field(pattern=r"^https?://")] = None
    """URL of a substitute for Stripe's API, in development. If unset, Stripe's own URL is used."""


for _field in Settings.model_fields.values():  # a docstring may have several lines, a description one
    _field.description = " ".join((_field.description or "").split())


def reveal(secret: SecretStr | None) -> str | None:
    """Return the value of a secret setting, which its `repr` hides, or None if it is not set."""
    return None if secret is None else secret.get_secret_value()


def log_format(settings: Settings) -> Literal["json", "text"]:
    """Return the log format of this process."""
    return settings.log_format or ("json" if settings.environment == "production" else "text")


@cache
def get_settings() -> Settings:
    """Return the settings of this process, which are read once."""
    return Settings()


def data_directory(settings: Settings | None = None) -> Path:
    """Return the absolute path of DATA_DIR, or of `.data` in the checkout. It may not exist yet."""
    return ((settings or get_settings()).data_dir or Path(__file__).resolve().parent.parent / ".data").absolute()


def server_url(settings: Settings | None = None) -> str:
    """Return the URL of the server for clients on this machine: http://HOST:PORT.

    If HOST means all addresses, the URL contains the loopback address.
    """
    settings = settings or get_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104  compared, not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
