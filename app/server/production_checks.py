"""Checks of settings that would make a production server insecure: weak secrets, the development issuer, and
webhooks without a signature.

Each check returns its problems as sentences that name the setting. The server refuses to start with any of them;
`python -m app check` reports them all.
"""

from ipaddress import ip_address
from typing import Final

from app.db import database_url
from app.db.database_url import DatabaseUrl
from app.errors import Misconfigured
from app.settings import Settings, reveal

MIN_DISTINCT_BYTES: Final = 12
"""The minimum number of distinct bytes in a key. 32 random bytes have about 30; a key with few was typed by hand."""
MIN_PASSWORD_LENGTH: Final = 16
"""The minimum length of the password of a database on another machine."""
MIN_DISTINCT_CHARACTERS: Final = 8
"""The minimum number of distinct characters in such a password. 16 random hexadecimal digits have about 10."""
COMMON_PASSWORDS: Final = frozenset(
    {"postgres", "password", "secret", "changeme", "change-me", "admin", "root", "credits"}
)


def weak_secrets(settings: Settings) -> list[str]:
    """Return a problem for each secret that can be guessed."""
    problems = []
    ledger_key = reveal(settings.ledger_key)
    if _is_typed_by_hand(ledger_key):
        problems.append("LEDGER_KEY is not random: generate it with `openssl rand -hex 32`.")
    others = (reveal(settings.ledger_verification_keys) or "").split(",")
    if any(_is_typed_by_hand(text.strip()) for text in others):
        problems.append("LEDGER_VERIFICATION_KEYS has a key that is not random: rotate it.")
    if ledger_key and ledger_key.lower() in _other_secrets(settings):
        problems.append("LEDGER_KEY is also used for another setting: generate its own with `openssl rand -hex 32`.")
    urls = {"DATABASE_URL": settings.database_url, "MIGRATION_DATABASE_URL": settings.migration_database_url}
    for name, url in urls.items():
        if _has_weak_password(reveal(url)):
            problems.append(f"{name} has a password that is easy to guess: generate one with `openssl rand -hex 16`.")
    return problems


def issuer_problems(settings: Settings) -> list[str]:
    """Return a problem if tokens of the development issuer would be accepted."""
    if settings.jwt_issuer != Settings.model_fields["jwt_issuer"].default:
        return []
    return ["JWT_ISSUER is the development issuer: set it to the `iss` of your identity provider's tokens."]


def webhook_problems(settings: Settings) -> list[str]:
    """Return a problem if webhooks of the payment provider could not be verified."""
    if settings.payment_provider != "stripe" or settings.stripe_webhook_secret is not None:
        return []
    return [
        "STRIPE_WEBHOOK_SECRET is not set: webhooks could not be verified, so no payment would be credited by them."
    ]


def is_loopback(host: str) -> bool:
    """Return whether `host` is on this machine: a loopback address, or the directory of a Unix socket."""
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _other_secrets(settings: Settings) -> set[str]:
    """Return every secret except LEDGER_KEY, in lower case, because the case of hexadecimal digits does not matter."""
    secrets = (
        settings.jwt_hs256_secret,
        settings.stripe_secret_key,
        settings.stripe_webhook_secret,
        settings.stripe_webhook_secret_previous,
    )
    urls = (settings.database_url, settings.migration_database_url)
    return {secret.get_secret_value().lower() for secret in secrets if secret is not None} | {
        parsed.password.lower() for url in urls if (parsed := _parsed(reveal(url))) is not None and parsed.password
    }


def _parsed(url: str | None) -> DatabaseUrl | None:
    """Return the parts of a database URL, or None without a valid URL. Connecting to an invalid URL reports it."""
    try:
        return None if url is None else database_url.parse(url)
    except Misconfigured:
        return None


def _has_weak_password(url: str | None) -> bool:
    """Return whether the password is common, the user name, or too simple for a database on another machine."""
    parsed = _parsed(url)
    if parsed is None or not parsed.password:
        return False
    password = parsed.password
    if password.lower() in COMMON_PASSWORDS or password == parsed.user:
        return True
    is_short = len(password) < MIN_PASSWORD_LENGTH or len(set(password)) < MIN_DISTINCT_CHARACTERS
    return is_short and not all(is_loopback(host) for host in parsed.hosts)


def _is_typed_by_hand(key_hex: str | None) -> bool:
    """Return whether the key has few distinct bytes. `app.state.ledger_keys` refuses a missing or short key."""
    try:
        key = bytes.fromhex(key_hex or "")
    except ValueError:
        return False
    return bool(key) and len(set(key)) < MIN_DISTINCT_BYTES
