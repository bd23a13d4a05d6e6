"""Points about settings alone: who may come in, by which secrets, and who takes the money."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Final
from urllib.parse import urlsplit

from app.auth import authenticator
from app.auth.jwks import RemoteKeySet, SharedSecret
from app.cli import documents
from app.cli.checklist.results import CheckResult, Installation, failed_or_passed, passed
from app.errors import Misconfigured
from app.server import exposure, production_checks
from app.settings import Settings, log_format
from app.state import ledger_key
from app.topups.configured_provider import open_provider

MAXIMUM_MESSAGES: Final = 10
"""Of one point; the first ones say enough."""
_NO_DOCUMENTS: Final = (
    "KNOWN_DOCUMENTS is not set, so that users can ask nothing: name the directory or manifest of your clients' "
    "documents, or say by ARBITRARY_DOCUMENTS who may send others."
)
_NO_PROXY: Final = (
    "FORWARDED_ALLOW_IPS is not set, and HOST is open to other machines: behind a proxy all users would share its "
    "address, and RATE_PER_ADDRESS. Name the addresses by which your proxies come."
)


async def settings(here: Installation) -> CheckResult:
    """Every setting can be read, and ENVIRONMENT is what is asked for."""
    faults = [*here.settings_errors]
    readable = not any(problem.startswith("ENVIRONMENT:") for problem in here.settings_errors)
    if here.production and here.environment != "production" and readable:
        faults.append(f"ENVIRONMENT is {here.environment}: set ENVIRONMENT=production.")
    return failed_or_passed(faults, f"{len(Settings.model_fields)} can be read; ENVIRONMENT is {here.environment}")


async def secrets(here: Installation) -> CheckResult:
    """The keys of the ledger and the passwords of the database are there, and nobody guesses them."""
    chosen = here.settings
    faults = production_checks.weak_secrets(chosen)
    if chosen.ledger_key is None:
        faults.append("LEDGER_KEY is not set: make one with `openssl rand -hex 32`, and keep a copy elsewhere.")
    else:
        faults += _refusal(lambda: ledger_key(chosen))
    return failed_or_passed(faults, "LEDGER_KEY and the passwords of the database are not guessable")


async def tokens(here: Installation) -> CheckResult:
    """Tokens are signed in one way, by an issuer and for an audience that somebody chose."""
    chosen, faults = here.settings, []
    if here.production:
        faults += production_checks.issuer_problems(chosen)
        if "jwt_audience" not in chosen.model_fields_set:
            faults.append("JWT_AUDIENCE is not set: name the `aud` that your identity provider writes for this server.")
    faults += _refusal(lambda: authenticator.key_source(chosen))
    if faults:
        return failed_or_passed(faults, "")
    source = authenticator.key_source(chosen)
    signed = "a key set" if isinstance(source, RemoteKeySet) else "development's own keys"
    signed = "one shared secret" if isinstance(source, SharedSecret) else signed
    return passed(f"checked by {signed}; iss {chosen.jwt_issuer}, aud {chosen.jwt_audience}")


async def hosts(here: Installation) -> CheckResult:
    """The names by which the server may be addressed are listed."""
    faults = _refusal(lambda: exposure.production_hosts(here.settings))
    return failed_or_passed(faults, "" if faults else ", ".join(sorted(exposure.production_hosts(here.settings))))


async def origins(here: Installation) -> CheckResult:
    """Pages that may call are exact origins, by https."""
    if faults := _refusal(lambda: exposure.production_origins(here.settings)):
        return failed_or_passed(faults, "")
    listed = exposure.production_origins(here.settings)
    faults = [
        f"ALLOWED_ORIGINS: {origin!r} is not https: who sits on the network between can put a page of his own there."
        " Serve your pages by https, and name them so."
        for origin in listed
        if not origin.startswith("https://")
    ]
    return failed_or_passed(faults, ", ".join(listed) or "no page of another origin may call")


async def proxy(here: Installation) -> CheckResult:
    """Clients can be told from each other behind a proxy, and none of them can say that it is another."""
    chosen = here.settings
    if chosen.forwarded_allow_ips is None:
        open_host = [] if production_checks.is_loopback(chosen.host) else [_NO_PROXY]
        return failed_or_passed(open_host, "clients' addresses are believed of 127.0.0.1")
    faults = [fault for named in chosen.forwarded_allow_ips if (fault := _not_a_proxy(named))]
    return failed_or_passed(faults, f"clients' addresses are believed of {', '.join(chosen.forwarded_allow_ips)}")


def _not_a_proxy(named: str) -> str | None:
    """Why nobody should be believed by this name, or nobody would be."""
    everybody = f"FORWARDED_ALLOW_IPS: {named!r} believes everybody: name your proxies by their addresses."
    if named == "*":
        return everybody
    try:
        return None if ip_network(named).prefixlen else everybody
    except ValueError:
        return f"FORWARDED_ALLOW_IPS: {named!r} is no address or network: write 10.0.0.1 or 10.0.0.0/24."


async def public_url(here: Installation) -> CheckResult:
    """Payers come back by https, to a name on the list."""
    chosen = here.settings
    if chosen.payment_provider == "none":
        return passed("not needed: credits are not sold here")
    if chosen.public_url is None:
        return failed_or_passed(
            ["PUBLIC_URL is not set: payers would be sent to HOST:PORT. Set it to https://YOUR-HOST."], ""
        )
    address = urlsplit(chosen.public_url)
    faults = []
    if address.scheme != "https" or not address.hostname or address.username or address.query or address.fragment:
        faults.append("PUBLIC_URL is not https://YOUR-HOST, without anything but a path: write it so.")
    elif not _refusal(lambda: exposure.production_hosts(chosen)) and address.hostname not in exposure.production_hosts(
        chosen
    ):
        faults.append("PUBLIC_URL names a host that is not in ALLOWED_HOSTS: add it, or payers are turned away.")
    return failed_or_passed(faults, f"https://{address.hostname}")


async def payments(here: Installation) -> CheckResult:
    """Who takes the money takes real money, and its notices can be told from forged ones."""
    chosen = here.settings
    faults = production_checks.webhook_problems(chosen) if here.production else []
    given = {
        "STRIPE_WEBHOOK_SECRET": chosen.stripe_webhook_secret,
        "STRIPE_WEBHOOK_SECRET_PREVIOUS": chosen.stripe_webhook_secret_previous,
    }
    if here.production and chosen.payment_provider == "stripe":
        faults += [
            f"{name} does not begin with whsec_: copy the signing secret of the webhook endpoint from Stripe."
            for name, secret in given.items()
            if secret is not None and not secret.get_secret_value().startswith("whsec_")
        ]
    try:
        provider = open_provider(chosen)
    except Misconfigured as refusal:
        return failed_or_passed([*faults, str(refusal)], "")
    if provider is not None:
        await provider.close()
    return failed_or_passed(faults, "credits are not sold here" if provider is None else provider.name)


async def logs(here: Installation) -> CheckResult:
    """The log holds no words of faults, and shows afterwards who asked for what."""
    chosen, faults = here.settings, []
    if log_format(chosen) == "text":
        faults.append("LOG_FORMAT is text, in which faults are written with their words, rows among them: set json.")
    if chosen.request_log == "none":
        faults.append("REQUEST_LOG is none: what was asked leaves no line. Unset it, or set without-charges.")
    return failed_or_passed(faults, f"json, redacted; operations that leave a line: {chosen.request_log}")


async def rate_limits(here: Installation) -> CheckResult:
    """Nobody may ask without limit."""
    rates = {kind: getattr(here.settings, f"rate_per_{kind}") for kind in ("user", "address", "service")}
    faults = [
        f"RATE_PER_{kind.upper()} is 0, which is no limit: unset it, or say how many operations a second."
        for kind, rate in rates.items()
        if not rate
    ]
    said = ", ".join(f"{rate:g} of {'an' if kind == 'address' else 'a'} {kind}" for kind, rate in rates.items())
    return failed_or_passed(faults, f"operations a second: {said}")


async def persisted_documents(here: Installation) -> CheckResult:
    """What users' clients send is known, and can be served."""
    chosen = here.settings
    if chosen.known_documents is not None:
        read, problems = documents.load_and_validate([chosen.known_documents])
        faults = [f"KNOWN_DOCUMENTS: {problem}" for problem in problems[:MAXIMUM_MESSAGES]]
        if len(problems) > MAXIMUM_MESSAGES:
            faults.append(f"KNOWN_DOCUMENTS: {len(problems)} problems. `python -m app documents check` lists all.")
        return failed_or_passed(faults, f"{len(read)} can be served")
    if here.production and chosen.arbitrary_documents is None:
        return failed_or_passed([_NO_DOCUMENTS], "")
    usual = (
        exposure.ARBITRARY_DOCUMENTS_IN_DEVELOPMENT
        if chosen.environment == "development"
        else exposure.ARBITRARY_DOCUMENTS_IN_PRODUCTION
    )
    free = usual if chosen.arbitrary_documents is None else chosen.arbitrary_documents
    return passed(f"none; others may be sent by {', '.join(free) or 'nobody'}")


def _refusal(attempt: Callable[[], object]) -> list[str]:
    """Why the server would not start, where it would not."""
    try:
        attempt()
    except Misconfigured as refusal:
        return [str(refusal)]
    return []
