"""Builds the state that all requests of a process share, from the settings."""

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.api.accounts.balance import open_latest_balances
from app.api.context import AppState
from app.auth.development_keys import development_secret
from app.db.group_commit import LOOP_TURNS, BatchedReads
from app.errors import Misconfigured
from app.ledger import queries
from app.live.change_feed import ChangeFeed
from app.outgoing_webhooks.secret_box import SecretBox
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings, reveal
from app.tasks import stop_and_resume
from app.tasks.charging import ChargeQueue
from app.topups.configured_provider import open_provider

MIN_LEDGER_KEY_BYTES = 32


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
        ),
        balance_reader=BatchedReads(queries.read_settled_balances, batch_limit=1_000, loop_turns=LOOP_TURNS),
        latest_balances=open_latest_balances(feed, low_balance_threshold=settings.low_balance_threshold),
        payment_provider=open_provider(settings),
        webhook_secrets=webhook_secrets(settings),
    )


def webhook_secrets(settings: Settings) -> SecretBox:
    """Return what encrypts the secrets of webhook endpoints. Its key is derived from LEDGER_KEY.

    Raises: Misconfigured.
    """
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"webhook secrets")
    return SecretBox([derivation.derive(ledger_key(settings))])


def configure_ledger(settings: Settings) -> None:
    """Set the ledger key and the low-balance threshold of this process. Required before the first change of an account.

    Raises: Misconfigured.
    """
    stop_and_resume.configure_ledger(ledger_key(settings), low_balance_threshold=settings.low_balance_threshold)


def ledger_key(settings: Settings) -> bytes:
    """Return the key of the entries' HMAC chain.

    Raises: Misconfigured: the key is too short, or in production it is missing.
    """
    key_hex = reveal(settings.ledger_key)
    if key_hex is None:
        return development_secret("ledger", settings=settings)
    try:
        key = bytes.fromhex(key_hex)
    except ValueError:
        key = b""
    if len(key) < MIN_LEDGER_KEY_BYTES:
        raise Misconfigured("LEDGER_KEY must have at least 64 hex digits: generate it with `openssl rand -hex 32`.")
    return key
