"""Checks of the settings: secrets, tokens, hosts and origins, payments, documents, logs and rate limits.

Some of these problems also prevent the server from starting. To find them, a check calls the code that the server calls
at start (`app.server`, `app.state`, the authenticator, the payment provider), and reports its error messages.
"""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from typing import Final
from urllib.parse import urlsplit

from app.auth import authenticator
from app.auth.jwks import RemoteKeySet, SharedSecret
from app.cli import documents
from app.cli.checklist.results import CheckFailed, Installation, fail_if
from app.db import database_url
from app.errors import Misconfigured
from app.server import exposure, production_checks
from app.settings import Settings, log_format, reveal
from app.state import LEDGER_KEY_MISSING, ledger_keys
from app.topups.configured_provider import open_provider
from app.wording import counted, quote_value

MAXIMUM_MESSAGES: Final = 10
"""The maximum number of problems of persisted documents that are listed."""


def startup_problems(settings: Settings) -> list[str]:
    """Return every reason why a server with these settings would not start. The database is not used."""
    problems: list[str] = []
    attempts: list[Callable[[], object]] = [
        lambda: ledger_keys(settings),
        lambda: authenticator.key_source(settings),
        lambda: open_provider(settings),
    ]
    if settings.environment == "production":
        problems += production_checks.weak_secrets(settings)
        problems += production_checks.issuer_problems(settings)
        problems += production_checks.webhook_problems(settings)
        attempts += [lambda: exposure.production_hosts(settings), lambda: exposure.production_origins(settings)]
        if settings.database_url is None:
            problems.append("DATABASE_URL is not set: production needs a PostgreSQL 15 or newer.")
    for url in (settings.database_url, settings.migration_database_url):
        if url is not None:
            attempts.append(partial(database_url.parse, url.get_secret_value()))
    for attempt in attempts:
        problems += _misconfiguration(attempt)
    return list(dict.fromkeys(problems))


async def valid_settings(installation: Installation) -> str:
    """Every setting can be parsed. With `--production`, ENVIRONMENT must be production."""
    problems = [*installation.settings_errors]
    is_readable = not any(problem.startswith("ENVIRONMENT:") for problem in problems)
    if installation.production and installation.environment != "production" and is_readable:
        problems.append(f"ENVIRONMENT is {installation.environment}: set ENVIRONMENT=production.")
    url = reveal(installation.settings.migration_database_url)
    if url is not None:  # the check "database" uses the other URL
        problems += _misconfiguration(lambda: database_url.parse(url))
    fail_if(problems)
    return f"{len(Settings.model_fields)} settings are valid; ENVIRONMENT is {installation.environment}"


async def secrets(installation: Installation) -> str:
    """LEDGER_KEY is set, and neither it nor a password in a database URL can be guessed."""
    problems = production_checks.weak_secrets(installation.settings)
    if installation.settings.ledger_key is None:
        problems.append(LEDGER_KEY_MISSING)
    else:
        problems += _misconfiguration(lambda: ledger_keys(installation.settings))
    fail_if(problems)
    return "LEDGER_KEY and the database passwords are not guessable"


async def tokens(installation: Installation) -> str:
    """The keys that verify tokens come from one source. In production, JWT_ISSUER and JWT_AUDIENCE are set."""
    settings = installation.settings
    problems = []
    if installation.production:
        problems += production_checks.issuer_problems(settings)
        if "jwt_audience" not in settings.model_fields_set:
            problems.append("JWT_AUDIENCE is not set: set it to the `aud` of your identity provider's tokens.")
    fail_if(problems + _misconfiguration(lambda: authenticator.key_source(settings)))
    source = {RemoteKeySet: "a key set", SharedSecret: "a shared secret"}.get(
        type(authenticator.key_source(settings)), "the development keys"
    )
    return f"verified with {source}; iss {settings.jwt_issuer}, aud {settings.jwt_audience}"


async def hosts(installation: Installation) -> str:
    """The host names of the server are listed."""
    return ", ".join(sorted(exposure.production_hosts(installation.settings)))


async def origins(installation: Installation) -> str:
    """Pages that may call the API are listed by their exact origins, with https."""
    listed = exposure.production_origins(installation.settings)
    fail_if(
        [
            f"ALLOWED_ORIGINS: {quote_value(origin)} is not https, so its pages can be replaced on the way to the "
            "browser: serve them with https."
            for origin in listed
            if not origin.startswith("https://")
        ]
    )
    return ", ".join(listed) or "no page of another origin may call"


async def proxy(installation: Installation) -> str:
    """Behind a proxy, the server knows the address of each client, and a client cannot forge its address."""
    settings = installation.settings
    if settings.forwarded_allow_ips is None:
        if not production_checks.is_loopback(settings.host):
            raise CheckFailed(
                "FORWARDED_ALLOW_IPS is not set, and HOST is open to other machines: behind a proxy all users would "
                "share its address and RATE_PER_ADDRESS. Set it to the addresses of your proxies."
            )
        return "X-Forwarded-For is accepted from 127.0.0.1"
    fail_if([problem for name in settings.forwarded_allow_ips if (problem := _proxy_problem(name))])
    return f"X-Forwarded-For is accepted from {', '.join(settings.forwarded_allow_ips)}"


def _proxy_problem(name: str) -> str | None:
    everybody = f"FORWARDED_ALLOW_IPS: {quote_value(name)} includes every address: list the addresses of your proxies."
    if name == "*":
        return everybody
    try:
        return None if ip_network(name).prefixlen else everybody
    except ValueError:
        return (
            f"FORWARDED_ALLOW_IPS: {quote_value(name)} is not an address or a network: write 10.0.0.1 or 10.0.0.0/24."
        )


async def public_url(installation: Installation) -> str:
    """If credits are sold, users return from a payment page to an allowed host, with https."""
    settings = installation.settings
    if settings.payment_provider == "none":
        return "not needed: credits are not sold"
    if settings.public_url is None:
        raise CheckFailed(
            "PUBLIC_URL is not set: users would return from payments to HOST:PORT. Set https://YOUR-HOST."
        )
    url = urlsplit(settings.public_url)
    if url.scheme != "https" or not url.hostname or url.username or url.query or url.fragment:
        raise CheckFailed("PUBLIC_URL is not https://YOUR-HOST, with nothing more than a path: write it so.")
    is_valid = not _misconfiguration(lambda: exposure.production_hosts(settings))  # otherwise the check "hosts" fails
    if is_valid and url.hostname not in exposure.production_hosts(settings):
        raise CheckFailed("PUBLIC_URL names a host that is not in ALLOWED_HOSTS: add it, or users are refused.")
    return f"https://{url.hostname}"


async def payments(installation: Installation) -> str:
    """The payment provider can be opened. In production, it takes real money, or credits are not sold."""
    settings = installation.settings
    problems = production_checks.webhook_problems(settings) if installation.production else []
    if installation.production and settings.payment_provider == "stripe":
        problems += [
            f"{name.upper()} does not begin with whsec_: copy the signing secret of the webhook endpoint from Stripe."
            for name in ("stripe_webhook_secret", "stripe_webhook_secret_previous")
            if (secret := getattr(settings, name)) is not None and not secret.get_secret_value().startswith("whsec_")
        ]
    try:
        provider = open_provider(settings)
    except Misconfigured as error:
        raise CheckFailed(*problems, str(error)) from None
    if provider is not None:
        await provider.close()
    fail_if(problems)
    return "credits are not sold" if provider is None else provider.name


async def logs(installation: Installation) -> str:
    """The log contains no texts of exceptions, and requests are logged."""
    settings, problems = installation.settings, []
    if log_format(settings) == "text":
        problems.append(
            "LOG_FORMAT is text, which logs the texts of exceptions, which may contain database rows: set json."
        )
    if settings.request_log == "none":
        problems.append("REQUEST_LOG is none, so requests are not logged: unset it, or set without-charges.")
    fail_if(problems)
    return f"json, redacted; logged operations: {settings.request_log}"


async def rate_limits(installation: Installation) -> str:
    """Every kind of caller has a rate limit."""
    rates = {kind: getattr(installation.settings, f"rate_per_{kind}") for kind in ("user", "address", "service")}
    fail_if(
        [
            f"RATE_PER_{kind.upper()} is 0, which is no limit: unset it, or set a number of operations a second."
            for kind, rate in rates.items()
            if not rate
        ]
    )
    texts = ", ".join(f"{rate:g} per {kind}" for kind, rate in rates.items())
    return f"operations a second: {texts}"


async def persisted_documents(installation: Installation) -> str:
    """The documents in KNOWN_DOCUMENTS are valid. In production, it or ARBITRARY_DOCUMENTS is set."""
    settings = installation.settings
    if settings.known_documents is not None:
        found, problems = documents.load_and_validate([settings.known_documents])
        messages = [f"KNOWN_DOCUMENTS: {problem}" for problem in problems[:MAXIMUM_MESSAGES]]
        if len(problems) > MAXIMUM_MESSAGES:
            messages.append(
                f"KNOWN_DOCUMENTS: {counted(len(problems), 'problem')}; `python -m app documents check` lists all."
            )
        fail_if(messages)
        return f"{counted(len(found), 'document is', 'documents are')} valid"
    if installation.production and settings.arbitrary_documents is None:
        raise CheckFailed(
            "KNOWN_DOCUMENTS is not set, so users can request nothing: set it to the directory or manifest of your "
            "clients' documents, or set ARBITRARY_DOCUMENTS to who may send others."
        )
    allowed = settings.arbitrary_documents
    if allowed is None:
        is_development = settings.environment == "development"
        allowed = (
            exposure.ARBITRARY_DOCUMENTS_IN_DEVELOPMENT
            if is_development
            else exposure.ARBITRARY_DOCUMENTS_IN_PRODUCTION
        )
    return f"none; arbitrary documents may be sent by {', '.join(allowed) or 'nobody'}"


def _misconfiguration(attempt: Callable[[], object]) -> list[str]:
    """Return the message with which the server would refuse to start, if any."""
    try:
        attempt()
    except Misconfigured as error:
        return [str(error)]
    return []
