"""Builds the state that all requests of a process share, from the settings."""

from typing import Final

from app.api.accounts.balance import open_latest_balances
from app.api.context import AppState
from app.auth.development_keys import development_secret
from app.db.group_commit import LOOP_TURNS, BatchedReads
from app.errors import Misconfigured
from app.ledger import queries
from app.ledger.rules.ledger_keys import MIN_KEY_BYTES, LedgerKey
from app.live.change_feed import ChangeFeed
from app.outgoing_webhooks.secret_box import SecretBox
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings, reveal
from app.tasks import stop_and_resume
from app.tasks.charging import ChargeQueue
from app.topups.configured_provider import open_provider

LEDGER_KEY_MISSING: Final = "LEDGER_KEY is not set: create one with `openssl rand -hex 32`, and keep a copy elsewhere."


def build_state(settings: Settings) -> AppState:
    """Build the state of this process. It opens no connection and starts no task. Raises: Misconfigured."""
    configure_ledger(settings)
    rate_cards = RateCardCache()
    feed = ChangeFeed(sweep_seconds=settings.sweep_seconds, conflate_seconds=settings.conflate_ms / 1000)
    return AppState(
        settings=settings,
        change_feed=feed,
        rate_cards=rate_cards,
        charge_queue=ChargeQueue(
            rate_cards,
            queues=settings.posting_connections,
            batch_limit=settings.batch_limit,
            queue_limit=settings.queue_limit,
            lock_seconds=settings.lock_seconds,
        ),
        balance_reader=BatchedReads(queries.read_settled_balances, batch_limit=1_000, loop_turns=LOOP_TURNS),
        latest_balances=open_latest_balances(feed, low_balance_threshold=settings.low_balance_threshold),
        payment_provider=open_provider(settings),
        webhook_secrets=webhook_secrets(settings),
    )


def webhook_secrets(settings: Settings) -> SecretBox:
    """Return the encryption of the secrets of webhook endpoints. Its keys are derived from the ledger keys.

    Raises: Misconfigured.
    """
    return SecretBox([LedgerKey.derive(key).webhook_secrets for key in ledger_keys(settings)])


def configure_ledger(settings: Settings) -> None:
    """Set the ledger key, the low-balance threshold and the longest wait for a locked account in this process.

    Required before the first change of an account.

    Raises: Misconfigured.
    """
    key, *others = ledger_keys(settings)
    stop_and_resume.configure_ledger(
        key,
        verification_keys=others,
        low_balance_threshold=settings.low_balance_threshold,
        lock_seconds=settings.lock_seconds,
    )


def ledger_keys(settings: Settings) -> list[bytes]:
    """Return the ledger key that signs, then those that only verify.

    Raises: Misconfigured: a key is too short, or in production LEDGER_KEY is missing.
    """
    if settings.ledger_key is None and settings.environment == "production":
        raise Misconfigured(LEDGER_KEY_MISSING)
    signing, others = reveal(settings.ledger_key), reveal(settings.ledger_verification_keys)
    return [
        development_secret("ledger", settings=settings) if signing is None else _parse_key("LEDGER_KEY", signing),
        *(_parse_key("Each of LEDGER_VERIFICATION_KEYS", text.strip()) for text in (others or "").split(",") if others),
    ]


def _parse_key(name: str, text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < MIN_KEY_BYTES:
        raise Misconfigured(f"{name} must have at least 64 hex digits: generate it with `openssl rand -hex 32`.")
    return key
