"""One frozen object read from the environment. The descriptions stand in `python -m app --help` and in the README."""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _days(given: object) -> tuple[int, ...]:
    """Days as somebody writes them: 30,7,1."""
    parts = given.split(",") if isinstance(given, str) else given
    if isinstance(parts, list | tuple):
        texts = [str(part).strip() for part in parts]
        if 1 <= len(texts) <= 10 and all(text.isascii() and text.isdigit() and len(text) <= 3 for text in texts):
            days = tuple(int(text) for text in texts)
            if all(1 <= day <= 365 for day in days):
                return days
    raise PydanticCustomError("days", "It must be 1 to 10 whole numbers of days from 1 to 365, such as 30,7,1")


def _bonuses(given: object) -> tuple[tuple[int, int], ...] | None:
    """Promotions as somebody writes them: 5000:500,10000:1500. Given in any order, kept in rising order."""
    if given is None or isinstance(given, tuple):
        return given
    parts = [part.strip().split(":") for part in given.split(",")] if isinstance(given, str) else []
    if 1 <= len(parts) <= 20 and all(
        len(part) == 2 and all(text.isascii() and text.isdigit() and len(text) <= 12 for text in part) for part in parts
    ):
        steps = sorted((int(least), int(bonus)) for least, bonus in parts)
        if len({least for least, _ in steps}) == len(steps) and all(least and bonus for least, bonus in steps):
            return tuple(steps)
    raise PydanticCustomError("bonuses", "It must be pairs of credits, CREDITS:BONUS, such as 5000:500,10000:1500")


def _names(given: object) -> tuple[str, ...] | None:
    """A list as somebody writes it, divided by commas."""
    if given is None or isinstance(given, tuple):
        return given
    names = [part.strip() for part in given.split(",")] if isinstance(given, str) else []
    if 1 <= len(names) <= 50 and all(names):
        return tuple(dict.fromkeys(names))
    raise PydanticCustomError("names", "It must be 1 to 50 names, divided by commas")


def _callers(given: object) -> tuple[str, ...] | None:
    """Kinds of callers as somebody writes them: services,operators; nobody: none of them."""
    names = _names(given)
    if names is None or names == ("nobody",):
        return None if names is None else ()
    if set(names) <= {"anonymous", "users", "services", "operators"}:
        return names
    raise PydanticCustomError("callers", "It must be some of anonymous,users,services,operators, or nobody")


class Settings(BaseSettings):
    """Every setting has a default that suits development; an empty variable counts as unset."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, extra="ignore")

    environment: Literal["development", "production"] = Field(
        default="development", description="development is convenient; production refuses development's secrets."
    )
    database_url: str | None = Field(
        default=None,
        pattern=r"^postgres(ql)?://",
        description="A PostgreSQL 15 or newer. Unset: an embedded one starts by itself, in DATA_DIR.",
    )
    migration_database_url: str | None = Field(
        default=None,
        pattern=r"^postgres(ql)?://",
        description="The same database as the owner of its tables, who migrates. Unset: DATABASE_URL is that too.",
    )
    data_dir: Path | None = Field(
        default=None, description="Where the embedded PostgreSQL and the development keys live. Unset: .data here."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(default=1, ge=1, le=64, description="Server processes.")
    public_url: str | None = Field(
        default=None, description="How browsers reach this server, for payment pages. Unset: http://HOST:PORT."
    )
    allowed_hosts: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_names)] = Field(
        default=None,
        description="Hosts by which this server is addressed, by commas. Unset: PUBLIC_URL's; any in development.",
    )
    allowed_origins: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_names)] = Field(
        default=None,
        description="Origins of pages that may call, by commas. Unset: none but its own; any in development.",
    )
    forwarded_allow_ips: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_names)] = Field(
        default=None,
        description="Proxies that are believed of their clients' addresses, by commas. Unset: those of 127.0.0.1.",
    )
    known_documents: Path | None = Field(
        default=None, description="GraphQL documents known by hash: a directory of *.graphql files, or a manifest."
    )
    arbitrary_documents: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_callers)] = Field(
        default=None,
        description="Who may send others: of anonymous,users,services,operators, or nobody. "
        "Unset: services,operators; all in development.",
    )
    ledger_key: str | None = Field(
        default=None, description="At least 32 bytes, in hex: keys the chain of entries. Required in production."
    )
    jwt_issuer: str = Field(default="http://localhost/development", description="The `iss` that users' tokens carry.")
    jwt_audience: str = Field(default="credits", description="The `aud` that users' tokens carry.")
    jwks_url: str | None = Field(
        default=None, description="Where the public keys of users' tokens are. Unset: development's own key pair."
    )
    jwt_hs256_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="For an issuer that signs by a shared secret of at least 32 bytes: HS256 alone, and no JWKS_URL.",
    )
    jwt_admin_role: str = Field(default="credits-admin", description="The role that makes a token an operator's.")
    jwt_roles_claim: str = Field(default="roles", description="The claim that lists a token's roles.")
    jwt_organisations_claim: str = Field(
        default="organisations", description="The claim that lists the organisations a user may look at."
    )
    posting_connections: int = Field(
        default=2, ge=1, le=16, description="Posting connections per process; an account keeps its lane."
    )
    batch_limit: int = Field(default=256, ge=1, le=1000, description="Charges gathered into one transaction at most.")
    queue_limit: int = Field(
        default=4096,
        ge=1,
        le=100_000,
        description="Charges waiting per lane before new ones are refused as OVERLOADED.",
    )
    compile_operations: Literal["on", "off"] = Field(
        default="on",
        description="on: documents are compiled when first seen. off: each is executed by graphql-core's own executor.",
    )
    request_seconds: float = Field(
        default=15, gt=0, le=300, description="How long a whole HTTP request may take to arrive, headers and body."
    )
    operation_seconds: float = Field(
        default=30, gt=0, le=300, description="How long a query or mutation may take; charges wait in their queue."
    )
    rate_per_user: float = Field(
        default=50,
        ge=0,
        description="Operations a second of one user, over all WORKERS; five seconds' worth at once. 0: no limit.",
    )
    rate_per_address: float = Field(
        default=200,
        ge=0,
        description="The same of all users and strangers at one address (for IPv6: one /64); credentials and requests "
        "that are refused count, too. 0: no limit.",
    )
    rate_per_service: float = Field(
        default=2000,
        ge=0,
        description="The same of one service key or operator; charges and holds are not counted. 0: no limit.",
    )
    operations_per_user: int = Field(
        default=50, ge=1, description="Queries and mutations of one user at once, per process."
    )
    subscriptions_per_user: int = Field(
        default=200, ge=1, description="Subscriptions of one user at once, per process."
    )
    connections_per_user: int = Field(
        default=20,
        ge=1,
        description="WebSocket connections of one user, per process; one more closes the oldest. A service key or an "
        "operator may have 2,000; 1,000 of one address may still have to say who they are.",
    )
    log_format: Literal["json", "text"] | None = Field(
        default=None, description="json: an object a line, redacted. Unset: json in production, text in development."
    )
    request_log: Literal["all", "without-charges", "none"] = Field(
        default="all", description="Which operations leave a line in the log; refused and failed charges always do."
    )
    read_connections: int = Field(default=5, ge=1, le=100, description="Connections for reads, per process.")
    sweep_seconds: float = Field(
        default=5.0, gt=0, le=5, description="How often versions are compared, should a notice have been lost."
    )
    conflate_ms: int = Field(
        default=25, ge=0, le=1000, description="Balance changes closer together than this are one."
    )
    low_balance_threshold: int = Field(default=500, ge=0, description="Available credits below this show as LOW.")
    expiry_notification_days: Annotated[tuple[int, ...], NoDecode, BeforeValidator(_days)] = Field(
        default=(30, 7, 1), description="How many days ahead of an expiry its owner is told, once each."
    )
    payment_provider: Literal["sandbox", "stripe", "none"] = Field(
        default="sandbox",
        description="Who takes the money. none: credits come by grants only; sandbox: development's; stripe.",
    )
    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="Currency of top-ups.")
    minor_per_credit: int = Field(default=1, ge=1, description="Price of a credit in minor units (1: one cent).")
    top_up_minimum: int = Field(default=500, ge=1, description="Fewest credits in a top-up.")
    top_up_multiple: int = Field(default=100, ge=1, description="Top-ups are multiples of this.")
    top_up_maximum: int = Field(default=1_000_000, ge=1, description="Most credits in a top-up.")
    top_up_bonuses: Annotated[tuple[tuple[int, int], ...] | None, NoDecode, BeforeValidator(_bonuses)] = Field(
        default=None,
        description="Promotional credits with a top-up from so many credits on, such as 5000:500,10000:1500.",
    )
    top_up_bonus_days: int = Field(default=365, ge=1, le=3650, description="Days after which such a bonus expires.")
    receipt_seller: str | None = Field(
        default=None,
        max_length=500,
        description="Who sells, for receipts: name and address, lines divided by semicolons.",
    )
    sandbox_secret: str | None = Field(
        default=None, description="Signs the sandbox provider's notices. Unset: development's own."
    )
    stripe_secret_key: SecretStr | None = Field(
        default=None, description="Stripe's API key, sk_ or rk_: live ones in production, test ones in development."
    )
    stripe_webhook_secret: SecretStr | None = Field(
        default=None,
        description="Signs Stripe's notices (whsec_...). Unset: each is answered with 503, and comes again.",
    )
    stripe_webhook_secret_previous: SecretStr | None = Field(
        default=None, description="The secret before, taken as well while the new one is rolled out."
    )
    stripe_automatic_tax: bool = Field(
        default=False, description="Have Stripe Tax reckon tax and put it on top of the price."
    )
    stripe_base_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Where Stripe's API is, for a stand-in in development. Unset: Stripe's own.",
    )


def log_format(settings: Settings) -> Literal["json", "text"]:
    """How this process logs."""
    return settings.log_format or ("json" if settings.environment == "production" else "text")


@cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def data_directory(settings: Settings | None = None) -> Path:
    """Where this installation keeps what is its own: DATA_DIR, or `.data` beside the checkout. Not created here."""
    return ((settings or get_settings()).data_dir or Path(__file__).resolve().parent.parent / ".data").absolute()


def server_url(settings: Settings | None = None) -> str:
    """How a client on this machine reaches the server: http://HOST:PORT, by the loopback where HOST means all."""
    here = settings or get_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(here.host, here.host)  # noqa: S104  compared, not bound
    return f"http://[{host}]:{here.port}" if ":" in host else f"http://{host}:{here.port}"
