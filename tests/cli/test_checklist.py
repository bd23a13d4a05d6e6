"""Each point of the checklist, where it holds and where it does not."""

import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from app.auth import service_keys
from app.auth.caller import Scope
from app.cli.checklist import database_checks, environment_checks, runner, schema_checks, settings_checks
from app.cli.checklist.results import LOCK_FILE, Check, CheckFunction, CheckResult, CheckStatus, Installation
from app.db import pools, roles
from app.errors import Misconfigured
from app.pricing import publishing
from app.server.exposure import Exposure
from app.settings import Settings
from tests.auth.token_issuer import key_set, public_jwk, serving
from tests.command_line import temporary_directory, url_for_role
from tests.insecure_postgres import MisconfiguredPostgres, misconfigured_postgres

pytestmark = pytest.mark.anyio

KEY = secrets.token_hex(32)
GOOD: dict[str, Any] = {
    "environment": "production",
    "database_url": "postgresql://credits:3c9f1b7aa0d2e486@db.example/credits",
    "ledger_key": KEY,
    "jwks_url": "https://id.example.com/keys",
    "jwt_issuer": "https://id.example.com/",
    "jwt_audience": "credits",
    "payment_provider": "stripe",
    "stripe_secret_key": "sk_live_" + "a1B2" * 6,
    "stripe_webhook_secret": "whsec_" + "c3D4" * 6,
    "public_url": "https://credits.example.com",
    "allowed_hosts": "credits.example.com",
    "allowed_origins": "https://app.example.com",
    "arbitrary_documents": "services,operators",
}


def installation(*, production: bool = True, changed: dict[str, Any] | None = None, **more: Any) -> Installation:
    settings = Settings(**{name: value for name, value in (GOOD | (changed or {})).items() if value is not None})
    return Installation(settings=settings, production=production, **more)


# Settings


@pytest.mark.parametrize(
    ("look", "told"),
    [
        (settings_checks.settings, f"{len(Settings.model_fields)} can be read; ENVIRONMENT is production"),
        (settings_checks.secrets, "LEDGER_KEY and the passwords of the database are not guessable"),
        (settings_checks.tokens, "checked by a key set; iss https://id.example.com/, aud credits"),
        (settings_checks.hosts, "credits.example.com"),
        (settings_checks.origins, "https://app.example.com"),
        (settings_checks.proxy, "clients' addresses are believed of 127.0.0.1"),
        (settings_checks.public_url, "https://credits.example.com"),
        (settings_checks.payments, "stripe"),
        (settings_checks.logs, "json, redacted; operations that leave a line: all"),
        (settings_checks.rate_limits, "operations a second: 50 of a user, 200 of an address, 2000 of a service"),
        (settings_checks.persisted_documents, "none; others may be sent by services, operators"),
    ],
)
async def test_good_settings_hold(look: CheckFunction, told: str) -> None:
    assert await look(installation()) == CheckResult(CheckStatus.OK, (told,))


WRONG: list[tuple[CheckFunction, dict[str, Any], str]] = [
    (settings_checks.secrets, {"ledger_key": None}, "LEDGER_KEY is not set: make one with `openssl rand -hex 32`"),
    (settings_checks.secrets, {"ledger_key": "ab" * 32}, "LEDGER_KEY is no random key: make one"),
    (settings_checks.secrets, {"ledger_key": KEY[:62]}, "LEDGER_KEY must be at least 64 hex digits: make one"),
    (settings_checks.secrets, {"ledger_key": "no hex"}, "LEDGER_KEY must be at least 64 hex digits: make one"),
    (
        settings_checks.secrets,
        {"jwt_hs256_secret": KEY},
        "LEDGER_KEY is another setting's secret too: make one of its own",
    ),
    (settings_checks.secrets, {"database_url": "postgresql://a:a@db/c"}, "DATABASE_URL has a password that anybody"),
    (
        settings_checks.secrets,
        {"migration_database_url": "postgresql://a:Pass%77ord@db/c"},
        "MIGRATION_DATABASE_URL has a",
    ),
    (settings_checks.tokens, {"jwt_issuer": None}, "JWT_ISSUER is development's: set it"),
    (settings_checks.tokens, {"jwt_audience": None}, "JWT_AUDIENCE is not set: name the `aud`"),
    (settings_checks.tokens, {"jwks_url": None}, "JWKS_URL is not set: production needs"),
    (settings_checks.tokens, {"jwks_url": "http://id.example.com/keys"}, "JWKS_URL must be an https address"),
    (settings_checks.tokens, {"jwt_hs256_secret": KEY[::-1]}, "JWKS_URL and JWT_HS256_SECRET are both set"),
    (settings_checks.tokens, {"jwks_url": None, "jwt_hs256_secret": "ab" * 16}, "JWT_HS256_SECRET must be at least 32"),
    (settings_checks.hosts, {"allowed_hosts": None, "public_url": None}, "ALLOWED_HOSTS is not set: name the hosts"),
    (
        settings_checks.hosts,
        {"allowed_hosts": "*.example.com"},
        "ALLOWED_HOSTS: '*.example.com' is no host name: write",
    ),
    (settings_checks.origins, {"allowed_origins": "*"}, 'ALLOWED_ORIGINS is "*": production needs the exact origins'),
    (settings_checks.origins, {"allowed_origins": "https://a.example/"}, "ALLOWED_ORIGINS: 'https://a.example/' is no"),
    (
        settings_checks.origins,
        {"allowed_origins": "http://a.example"},
        "ALLOWED_ORIGINS: 'http://a.example' is not https",
    ),
    (
        settings_checks.proxy,
        {"host": "192.0.2.7"},
        "FORWARDED_ALLOW_IPS is not set, and HOST is open to other machines",
    ),
    (
        settings_checks.proxy,
        {"forwarded_allow_ips": "*"},
        "FORWARDED_ALLOW_IPS: '*' believes everybody: name your proxies",
    ),
    (
        settings_checks.proxy,
        {"forwarded_allow_ips": "10.0.0.1, 0.0.0.0/0"},
        "FORWARDED_ALLOW_IPS: '0.0.0.0/0' believes",
    ),
    (settings_checks.proxy, {"forwarded_allow_ips": "proxy"}, "FORWARDED_ALLOW_IPS: 'proxy' is no address or network"),
    (settings_checks.public_url, {"public_url": None}, "PUBLIC_URL is not set: payers would be sent to HOST:PORT."),
    (settings_checks.public_url, {"public_url": "http://credits.example.com"}, "PUBLIC_URL is not https://YOUR-HOST"),
    (settings_checks.public_url, {"public_url": "https://a:b@credits.example.com"}, "PUBLIC_URL is not https://YOUR"),
    (settings_checks.public_url, {"public_url": "https://other.example"}, "PUBLIC_URL names a host that is not in"),
    (settings_checks.payments, {"payment_provider": "sandbox"}, "The sandbox payment provider gives credits away"),
    (settings_checks.payments, {"stripe_secret_key": None}, "PAYMENT_PROVIDER is stripe: set STRIPE_SECRET_KEY"),
    (settings_checks.payments, {"stripe_secret_key": "sk_test_a1B2"}, "STRIPE_SECRET_KEY is one of Stripe's test mode"),
    (settings_checks.payments, {"stripe_webhook_secret": None}, "STRIPE_WEBHOOK_SECRET is not set: no payment would"),
    (
        settings_checks.payments,
        {"stripe_webhook_secret": "typed"},
        "STRIPE_WEBHOOK_SECRET does not begin with whsec_: copy",
    ),
    (
        settings_checks.payments,
        {"stripe_base_url": "http://stand-in"},
        "STRIPE_BASE_URL sends the key elsewhere: unset",
    ),
    (settings_checks.logs, {"log_format": "text"}, "LOG_FORMAT is text, in which faults are written with their words"),
    (settings_checks.logs, {"request_log": "none"}, "REQUEST_LOG is none: what was asked leaves no line"),
    (
        settings_checks.rate_limits,
        {"rate_per_user": 0},
        "RATE_PER_USER is 0, which is no limit: unset it, or say how many",
    ),
    (settings_checks.rate_limits, {"rate_per_address": 0}, "RATE_PER_ADDRESS is 0, which is no limit: unset it"),
    (settings_checks.rate_limits, {"rate_per_service": 0}, "RATE_PER_SERVICE is 0, which is no limit: unset it"),
    (
        settings_checks.persisted_documents,
        {"arbitrary_documents": None},
        "KNOWN_DOCUMENTS is not set, so that users can ask nothing",
    ),
    (
        settings_checks.persisted_documents,
        {"known_documents": "no/such"},
        "KNOWN_DOCUMENTS: no/such: There is no such file",
    ),
]


@pytest.mark.parametrize(("look", "changed", "says"), WRONG)
async def test_a_setting_that_is_wrong_is_named_with_what_to_do(
    look: CheckFunction, changed: dict[str, Any], says: str
) -> None:
    finding = await look(installation(changed=changed))

    assert finding.status is CheckStatus.FAILED
    assert finding.messages[0].startswith(says)


async def test_whatever_the_start_refuses_a_point_says_in_the_same_words() -> None:
    said = set()
    for look, changed, _ in WRONG:
        here = installation(changed=changed)
        if refusal := why_it_does_not_start(here.settings):
            assert refusal in (await look(here)).messages, changed
            said.add(refusal)

    assert len(said) == 10  # all that Exposure knows


def why_it_does_not_start(settings: Settings) -> str | None:
    try:
        Exposure.from_settings(settings)
    except Misconfigured as refusal:
        return str(refusal)
    return None


async def test_settings_that_cannot_be_read_are_told_each() -> None:
    here = installation(environment="development", settings_errors=("WORKERS: no.", "PORT: no."))

    assert (await settings_checks.settings(here)).messages == (
        *("WORKERS: no.", "PORT: no."),
        "ENVIRONMENT is development: set ENVIRONMENT=production.",
    )


async def test_named_proxies_of_an_open_host_hold() -> None:
    here = installation(changed={"host": "::", "forwarded_allow_ips": "10.0.0.1, fd00::/64"})

    assert (await settings_checks.proxy(here)) == CheckResult(
        CheckStatus.OK, ("clients' addresses are believed of 10.0.0.1, fd00::/64",)
    )


async def test_where_nothing_is_sold_no_public_address_is_needed() -> None:
    here = installation(changed={"payment_provider": "none", "public_url": None})

    assert (await settings_checks.public_url(here)).messages == ("not needed: credits are not sold here",)
    assert (await settings_checks.payments(here)).messages == ("credits are not sold here",)


async def test_documents_are_held_against_the_schema(tmp_path: Path) -> None:
    (tmp_path / "balance.graphql").write_text("query Balance { account { balance { available } } }")
    here = installation(changed={"known_documents": tmp_path})
    held = await settings_checks.persisted_documents(here)
    for number in range(12):
        (tmp_path / f"wrong_{number:02}.graphql").write_text(f"query Wrong{number} {{ noSuchField }}")

    broken = await settings_checks.persisted_documents(here)

    assert held == CheckResult(CheckStatus.OK, ("1 can be served",))
    assert broken.status is CheckStatus.FAILED
    assert len(broken.messages) == 11
    assert broken.messages[0].startswith(
        f"KNOWN_DOCUMENTS: {tmp_path}/wrong_00.graphql:1: Cannot query field 'noSuchField'"
    )
    assert broken.messages[10] == "KNOWN_DOCUMENTS: 12 problems. `python -m app documents check` lists all."


# What stands around the server


async def test_what_is_installed_is_what_the_lock_file_pins() -> None:
    finding = await environment_checks.package_versions(installation())

    assert finding.status is CheckStatus.OK
    assert finding.messages[0].endswith(" packages as in requirements.lock")


async def test_packages_that_are_missing_or_others_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("click==1.0 \\\n    --hash=sha256:00\nno-such-package==2.0 \\\n    --hash=sha256:00\n")

    other, missing = (await environment_checks.package_versions(installation(lock_file=lock))).messages
    nothing = await environment_checks.package_versions(installation(lock_file=tmp_path / "absent"))

    remedy = "run `python -m pip install --require-hashes -r requirements.lock` in this environment."
    assert other == f"click is {metadata.version('click')}, and requirements.lock says 1.0: {remedy}"
    assert missing == f"no-such-package 2.0 is not installed: {remedy}"
    assert nothing.messages == ("There is no requirements.lock beside the application: install from a whole checkout.",)
    assert LOCK_FILE.is_file()


async def test_a_key_set_is_fetched_and_its_algorithms_are_told() -> None:
    with serving(key_set(one=Ed25519PrivateKey.generate(), two=generate_private_key(65537, 2048))) as issuer:
        finding = await environment_checks.jwks(installation(changed={"jwks_url": issuer.url}))

    assert finding == CheckResult(CheckStatus.OK, ("keys that can be used: 2 (EdDSA, PS256, RS256)",))


async def test_a_key_set_that_is_not_there_or_has_no_usable_key_is_told_without_its_address() -> None:
    nameless = {"keys": [public_jwk(Ed25519PrivateKey.generate(), key_id) for key_id in (None, "one")]}
    breakable = generate_private_key(65537, 1024)  # noqa: S505  to be refused
    with serving(key_set(weak=breakable)) as issuer:
        here = installation(changed={"jwks_url": issuer.url.replace("//", "//user:canary@")})
        weak = await environment_checks.jwks(here)
        issuer.serve(nameless)
        several = await environment_checks.jwks(here)
        issuer.status = 404
        absent = await environment_checks.jwks(here)
    gone = await environment_checks.jwks(here)

    assert [finding.status for finding in (weak, several, absent, gone)] == [CheckStatus.FAILED] * 4
    assert weak.messages[0].startswith("JWKS_URL answers, but with no key set that has a signing key of RS256")
    assert several.messages[0].startswith("JWKS_URL has several keys, and one without `kid`")
    assert absent.messages[0].startswith("JWKS_URL answers with 404: check the address")
    assert gone.messages[0].startswith("JWKS_URL cannot be reached from here: check")


async def test_no_key_set_is_asked_for_where_a_secret_is_shared() -> None:
    shared = await environment_checks.jwks(installation(changed={"jwks_url": None, "jwt_hs256_secret": KEY}))
    none = await environment_checks.jwks(installation(changed={"jwks_url": None}))

    assert shared == CheckResult(CheckStatus.OK, ("not needed: tokens are signed by a shared secret",))
    assert none == CheckResult(CheckStatus.SKIPPED, ("not looked at: JWKS_URL is not set",))


# The database


@pytest.fixture(scope="module")
def careless() -> Iterator[MisconfiguredPostgres]:
    with (
        temporary_directory() as place,
        pytest.MonkeyPatch.context() as patch,
        misconfigured_postgres(place, patch) as found,
    ):
        yield found


@pytest.fixture
async def role(db: str) -> AsyncIterator[str]:
    """The application's role: the pools are its own until the test ends."""
    name = f"application_{secrets.token_hex(4)}"
    await roles.grant_privileges(url_for_role(db, name, "secret"))
    await pools.disconnect()
    await pools.connect(url_for_role(db, name))
    yield name
    await pools.disconnect()
    await pools.connect(db)
    await pools.fetch(f"DROP OWNED BY {name}")
    await pools.fetch(f"DROP ROLE {name}")


async def test_a_good_database_holds_in_every_point(role: str) -> None:
    here = installation()
    looks = (
        database_checks.version,
        database_checks.encryption,
        database_checks.durability,
        database_checks.connections,
        database_checks.clock,
    )
    findings = [await look(here) for look in (*looks, schema_checks.migrations, schema_checks.role)]

    assert [finding.status for finding in findings] == [CheckStatus.OK] * 7
    assert findings[0].messages[0].startswith("PostgreSQL 1")
    assert [finding.messages[0] for finding in findings[1:3]] == [
        "not needed: it is reached on this machine",
        "fsync, synchronous_commit and full_page_writes are on",
    ]
    assert findings[3].messages[0].startswith("12 at most for WORKERS=1, ")
    assert [finding.messages[0] for finding in findings[4:]] == [
        "the clocks differ by less than 2 s",
        "all are applied",
        "it owns nothing and cannot change history",
    ]


async def test_a_careless_database_is_told_what_is_wrong_with_it(careless: MisconfiguredPostgres) -> None:
    here = installation(database_url=careless.url)
    reached = await database_checks.reachable(here)
    try:
        durability = await database_checks.durability(here)
        connections = await database_checks.connections(here)
        migrations = await schema_checks.migrations(here)
        owner = await schema_checks.role(here)
    finally:
        await pools.disconnect()

    assert reached == CheckResult(CheckStatus.OK, ("it answers",))
    assert [told.partition(":")[0] for told in durability.messages] == [
        "fsync is off", "synchronous_commit is off", "full_page_writes is off",
    ]  # fmt: skip
    assert connections.messages[0].startswith(
        "WORKERS=1 take up to 12 connections, and PostgreSQL has 9 for this role:"
    )
    assert migrations.messages[0].startswith("The database lacks 0001_initial, ")
    assert migrations.messages[0].endswith(": run `python -m app migrate` as the owner.")
    assert owner.status is CheckStatus.FAILED
    assert owner.messages[-1] == roles.ADVICE


async def test_an_open_connection_over_a_network_is_a_fault(careless: MisconfiguredPostgres) -> None:
    if careless.network_url is None:
        pytest.skip("this machine has no address but its loopback")
    here = installation(database_url=careless.network_url)
    await database_checks.reachable(here)
    try:
        finding = await database_checks.encryption(here)
    finally:
        await pools.disconnect()

    assert finding.status is CheckStatus.FAILED
    assert finding.messages[0].startswith("The connection to the database is not encrypted: switch ssl on")


def test_an_encrypted_connection_over_a_network_holds() -> None:
    assert database_checks.check_encryption(local=False, encrypted=True) == CheckResult(
        CheckStatus.OK, ("the connection is encrypted",)
    )
    assert database_checks.check_encryption(local=False, encrypted=False).status is CheckStatus.FAILED


def test_an_old_postgresql_is_a_fault() -> None:
    assert database_checks.check_version(150_000, "15.0") == CheckResult(CheckStatus.OK, ("PostgreSQL 15.0",))
    assert database_checks.check_version(140_012, "14.12").messages == ("PostgreSQL is 14.12: upgrade to 15 or newer.",)


def test_clocks_may_differ_by_two_seconds_whichever_is_ahead() -> None:
    assert database_checks.check_clock_difference(100.0, 102.5, 100.5).status is CheckStatus.OK
    assert database_checks.check_clock_difference(100.0, 98.0, 100.5).status is CheckStatus.OK
    [ahead] = database_checks.check_clock_difference(100.0, 102.7, 100.5).messages
    [behind] = database_checks.check_clock_difference(100.0, 97.9, 100.5).messages
    assert ahead == "The clocks of server and database differ by 2.2 s: let both follow a time server (NTP)."
    assert behind == "The clocks of server and database differ by 2.1 s: let both follow a time server (NTP)."


async def test_a_role_that_may_open_few_connections_is_told(role: str, database_url: str) -> None:
    await pools.disconnect()
    await pools.connect(database_url)
    await pools.fetch(f"ALTER ROLE {role} CONNECTION LIMIT 11")
    await pools.disconnect()
    await pools.connect(url_for_role(database_url, role))

    too_few = await database_checks.connections(installation())
    enough = await database_checks.connections(installation(changed={"posting_connections": 1}))

    assert too_few.messages[0].startswith("WORKERS=1 take up to 12 connections, and PostgreSQL has 11 for this role:")
    assert enough == CheckResult(CheckStatus.OK, ("11 at most for WORKERS=1, 11 there for this role",))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "DATABASE_URL is not set: production needs a PostgreSQL 15 or newer."),
        ("postgresql://a:canary@127.0.0.1:1/credits", "The database cannot be reached: start it, and check host"),
        ("postgresql://a:canary/x@127.0.0.1/credits", "DATABASE_URL is no address: write postgresql://USER:PASSWORD"),
    ],
)
async def test_a_database_out_of_reach_is_told_without_its_address(url: str | None, says: str) -> None:
    finding = await database_checks.reachable(installation(database_url=url))

    assert finding.status is CheckStatus.FAILED
    assert finding.messages[0].startswith(says)
    assert "canary" not in finding.messages[0]


async def test_a_database_or_a_role_that_does_not_exist_is_told(careless: MisconfiguredPostgres) -> None:
    nobody = await database_checks.reachable(installation(database_url=url_for_role(careless.url, "nobody_canary")))
    nowhere = await database_checks.reachable(installation(database_url=careless.url.replace("/credits?", "/canary?")))

    assert nobody.messages[0].startswith("The database refuses the role of DATABASE_URL, or its password: check both")
    assert nowhere.messages[0].startswith("There is no database of DATABASE_URL's name: create it")


async def test_prices_count_once_they_are_in_force(db: str) -> None:
    none = await schema_checks.rate_card(installation())
    await publishing.publish_default_card()

    assert none.messages == ("No rate card is in force: publish one by `python -m app prices publish FILE`.",)
    assert await schema_checks.rate_card(installation()) == CheckResult(CheckStatus.OK, ("version 1 is in force",))

    await pools.fetch("UPDATE rate_card SET effective_at = clock_timestamp() + interval '1 minute'")
    assert (await schema_checks.rate_card(installation())).status is CheckStatus.FAILED


async def test_only_an_active_key_counts(db: str) -> None:
    none = await schema_checks.service_keys(installation())
    revoked = await service_keys.create_key("revoked", [Scope.CHARGE])
    await service_keys.revoke_key(revoked.split("_")[1])
    await service_keys.create_key("expired", [Scope.CHARGE], expires_at=datetime.now(UTC) + timedelta(hours=1))
    await pools.fetch("UPDATE service_key SET expires_at = clock_timestamp() WHERE name = 'expired'")
    still_none = await schema_checks.service_keys(installation())
    await service_keys.create_key("executor", [Scope.CHARGE])

    assert none.messages == still_none.messages
    assert none.messages[0].startswith("No service key is active: make one by `python -m app keys create")
    assert await schema_checks.service_keys(installation()) == CheckResult(CheckStatus.OK, ("1 active",))


# The walk


async def test_a_fault_that_no_point_foresees_is_told_without_its_words_and_the_walk_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def breaks(_: Installation) -> CheckResult:
        raise RuntimeError("canary")

    async def hangs(_: Installation) -> CheckResult:
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(runner, "CHECK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(
        runner,
        "CHECKS",
        (
            Check(name="broken", run=breaks),
            Check(name="slow", run=hangs),
            Check(name="after", run=settings_checks.hosts, requires="broken"),
            Check(name="last", run=settings_checks.hosts),
        ),
    )
    found = {point.name: finding for point, finding in await runner.run_checks(installation())}

    assert found["broken"].messages == (
        "It cannot be looked at (RuntimeError): mend the points above, and run this again.",
    )
    assert found["slow"].messages == ("There was no answer within 0.05 s: see what keeps it, and run this again.",)
    assert found["after"] == CheckResult(CheckStatus.SKIPPED, ("not looked at: it needs broken",))
    assert found["last"].status is CheckStatus.OK


async def test_what_the_role_may_not_read_is_told_with_the_way_out(role: str, database_url: str) -> None:
    await pools.disconnect()
    await pools.connect(database_url)
    await pools.fetch(f"REVOKE SELECT ON rate_card FROM {role}")
    await pools.disconnect()

    walked = await runner.run_checks(installation(database_url=url_for_role(database_url, role)))

    await pools.connect(database_url)
    [told] = [finding.messages for point, finding in walked if point.name == "rate-card"]
    assert told == (
        "DATABASE_URL's role may not read this: run `python -m app migrate` with MIGRATION_DATABASE_URL set.",
    )
