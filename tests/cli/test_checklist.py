"""The checks of `python -m app check`, where they pass and where they fail."""

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
from app.cli.checklist import database_checks, environment_checks, runner, settings_checks
from app.cli.checklist.results import (
    LOCK_FILE,
    Check,
    CheckFailed,
    CheckFunction,
    CheckResult,
    CheckStatus,
    Installation,
)
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


def installation(*, changed: dict[str, Any] | None = None, **more: Any) -> Installation:
    settings = Settings(**{name: value for name, value in (GOOD | (changed or {})).items() if value is not None})
    return Installation(settings=settings, production=True, **more)


async def result_of(check: CheckFunction, checked: Installation | None = None) -> CheckResult:
    return await runner.run_check(Check(name="", run=check), checked or installation())


def passed(message: str) -> CheckResult:
    return CheckResult(CheckStatus.OK, (message,))


def failed(*messages: str) -> CheckResult:
    return CheckResult(CheckStatus.FAILED, messages)


# Settings


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (settings_checks.valid_settings, f"{len(Settings.model_fields)} settings are valid; ENVIRONMENT is production"),
        (settings_checks.secrets, "LEDGER_KEY and the database passwords are not guessable"),
        (settings_checks.tokens, "verified with a key set; iss https://id.example.com/, aud credits"),
        (settings_checks.hosts, "credits.example.com"),
        (settings_checks.origins, "https://app.example.com"),
        (settings_checks.proxy, "X-Forwarded-For is accepted from 127.0.0.1"),
        (settings_checks.public_url, "https://credits.example.com"),
        (settings_checks.payments, "stripe"),
        (settings_checks.logs, "json, redacted; logged operations: all"),
        (settings_checks.rate_limits, "operations a second: 50 per user, 200 per address, 2000 per service"),
        (settings_checks.persisted_documents, "none; arbitrary documents may be sent by services, operators"),
    ],
)
async def test_good_settings_pass(check: CheckFunction, message: str) -> None:
    assert await result_of(check) == passed(message)


S = settings_checks
WRONG: list[tuple[CheckFunction, dict[str, Any], str]] = [
    (S.secrets, {"ledger_key": None}, "LEDGER_KEY is not set: create one with `openssl rand -hex 32`"),
    (S.secrets, {"ledger_key": "ab" * 32}, "LEDGER_KEY is not random: generate it"),
    (S.secrets, {"ledger_key": KEY[:62]}, "LEDGER_KEY must have at least 64 hex digits: generate it"),
    (S.secrets, {"ledger_key": "no hex"}, "LEDGER_KEY must have at least 64 hex digits: generate it"),
    (S.secrets, {"jwt_hs256_secret": KEY}, "LEDGER_KEY is also used for another setting: generate its own"),
    (S.secrets, {"database_url": "postgresql://a:a@db/c"}, "DATABASE_URL has a password that is easy to guess"),
    (S.secrets, {"migration_database_url": "postgresql://a:Pass%77ord@db/c"}, "MIGRATION_DATABASE_URL has a password"),
    (S.tokens, {"jwt_issuer": None}, "JWT_ISSUER is the development issuer: set it"),
    (S.tokens, {"jwt_audience": None}, "JWT_AUDIENCE is not set: set it to the `aud`"),
    (S.tokens, {"jwks_url": None}, "JWKS_URL is not set"),
    (S.tokens, {"jwks_url": "http://id.example.com/keys"}, "JWKS_URL must be an https"),
    (S.tokens, {"jwt_hs256_secret": KEY[::-1]}, "JWKS_URL and JWT_HS256_SECRET are both set"),
    (S.tokens, {"jwks_url": None, "jwt_hs256_secret": "ab" * 16}, "JWT_HS256_SECRET must"),
    (S.hosts, {"allowed_hosts": None, "public_url": None}, "ALLOWED_HOSTS is not set: "),
    (S.hosts, {"allowed_hosts": "*.example.com"}, 'ALLOWED_HOSTS: "*.example.com" is not a host name: write'),
    (S.origins, {"allowed_origins": "*"}, 'ALLOWED_ORIGINS is "*"'),
    (S.origins, {"allowed_origins": "https://a.example/"}, 'ALLOWED_ORIGINS: "https://a.example/" is not an origin'),
    (S.origins, {"allowed_origins": "http://a.example"}, 'ALLOWED_ORIGINS: "http://a.example" is not https, so'),
    (S.proxy, {"host": "192.0.2.7"}, "FORWARDED_ALLOW_IPS is not set, and HOST is open to other machines"),
    (S.proxy, {"forwarded_allow_ips": "*"}, 'FORWARDED_ALLOW_IPS: "*" includes every address: list'),
    (S.proxy, {"forwarded_allow_ips": "10.0.0.1, 0.0.0.0/0"}, 'FORWARDED_ALLOW_IPS: "0.0.0.0/0" includes every'),
    (S.proxy, {"forwarded_allow_ips": "proxy"}, 'FORWARDED_ALLOW_IPS: "proxy" is not an address or a network'),
    (S.public_url, {"public_url": None}, "PUBLIC_URL is not set: users would return from payments to HOST:PORT."),
    (S.public_url, {"public_url": "http://credits.example.com"}, "PUBLIC_URL is not https://YOUR-HOST"),
    (S.public_url, {"public_url": "https://a:b@credits.example.com"}, "PUBLIC_URL is not https://YOUR-HOST"),
    (S.public_url, {"public_url": "https://other.example"}, "PUBLIC_URL names a host that is not in ALLOWED_HOSTS"),
    (S.payments, {"payment_provider": "sandbox"}, "The sandbox "),
    (S.payments, {"stripe_secret_key": None}, "PAYMENT_PROVIDER is stripe: set STRIPE_SECRET_KEY"),
    (S.payments, {"stripe_secret_key": "sk_test_a1B2"}, "STRIPE_SECRET_KEY is "),
    (S.payments, {"stripe_webhook_secret": None}, "STRIPE_WEBHOOK_SECRET is not set: "),
    (S.payments, {"stripe_webhook_secret": "typed"}, "STRIPE_WEBHOOK_SECRET does not begin with whsec_: copy"),
    (S.payments, {"stripe_base_url": "http://stand-in"}, "STRIPE_BASE_URL "),
    (S.logs, {"log_format": "text"}, "LOG_FORMAT is text, which logs the texts of exceptions"),
    (S.logs, {"request_log": "none"}, "REQUEST_LOG is none, so requests are not logged"),
    (S.rate_limits, {"rate_per_user": 0}, "RATE_PER_USER is 0, which is no limit: unset it, or set a number"),
    (S.rate_limits, {"rate_per_address": 0}, "RATE_PER_ADDRESS is 0, which is no limit: unset it"),
    (S.rate_limits, {"rate_per_service": 0}, "RATE_PER_SERVICE is 0, which is no limit: unset it"),
    (S.persisted_documents, {"arbitrary_documents": None}, "KNOWN_DOCUMENTS is not set, so users can request nothing"),
    (S.persisted_documents, {"known_documents": "no/such"}, "KNOWN_DOCUMENTS: no/such: There is no such file"),
]


@pytest.mark.parametrize(("check", "changed", "message"), WRONG)
async def test_a_wrong_setting_is_named_with_what_to_do(
    check: CheckFunction, changed: dict[str, Any], message: str
) -> None:
    result = await result_of(check, installation(changed=changed))

    assert result.status is CheckStatus.FAILED
    assert result.messages[0].startswith(message)


async def test_a_check_reports_the_message_with_which_the_server_refuses_to_start() -> None:
    reported = set()
    for check, changed, _ in WRONG:
        checked = installation(changed=changed)
        if message := refusal_to_start(checked.settings):
            assert message in (await result_of(check, checked)).messages, changed
            reported.add(message)

    assert len(reported) == 10  # every refusal of Exposure


def refusal_to_start(settings: Settings) -> str | None:
    try:
        Exposure.from_settings(settings)
    except Misconfigured as error:
        return str(error)
    return None


async def test_every_setting_that_cannot_be_parsed_is_reported() -> None:
    checked = installation(environment="development", settings_errors=("WORKERS: no.", "PORT: no."))

    assert await result_of(settings_checks.valid_settings, checked) == failed(
        "WORKERS: no.", "PORT: no.", "ENVIRONMENT is development: set ENVIRONMENT=production."
    )


async def test_listed_proxies_pass_on_a_host_that_is_open_to_other_machines() -> None:
    checked = installation(changed={"host": "::", "forwarded_allow_ips": "10.0.0.1, fd00::/64"})

    assert await result_of(settings_checks.proxy, checked) == passed(
        "X-Forwarded-For is accepted from 10.0.0.1, fd00::/64"
    )


async def test_no_public_url_is_needed_if_credits_are_not_sold() -> None:
    checked = installation(changed={"payment_provider": "none", "public_url": None})

    assert await result_of(settings_checks.public_url, checked) == passed("not needed: credits are not sold")
    assert await result_of(settings_checks.payments, checked) == passed("credits are not sold")


async def test_persisted_documents_are_validated_and_the_first_ten_problems_listed(tmp_path: Path) -> None:
    (tmp_path / "balance.graphql").write_text("query Balance { account { balance { available } } }")
    checked = installation(changed={"known_documents": tmp_path})
    valid = await result_of(settings_checks.persisted_documents, checked)
    for number in range(12):
        (tmp_path / f"wrong_{number:02}.graphql").write_text(f"query Wrong{number} {{ noSuchField }}")

    invalid = await result_of(settings_checks.persisted_documents, checked)

    assert valid == passed("1 document is valid")
    assert invalid.status is CheckStatus.FAILED
    assert len(invalid.messages) == 11
    assert invalid.messages[0].startswith(
        f"KNOWN_DOCUMENTS: {tmp_path}/wrong_00.graphql:1: Cannot query field 'noSuchField'"
    )
    assert invalid.messages[10] == "KNOWN_DOCUMENTS: 12 problems; `python -m app documents check` lists all."


# Packages and the identity provider


async def test_installed_packages_have_the_versions_of_the_lock_file() -> None:
    result = await result_of(environment_checks.package_versions)

    assert result.status is CheckStatus.OK
    assert result.messages[0].endswith(" packages as in requirements.lock")


async def test_missing_and_different_packages_are_named(tmp_path: Path) -> None:
    lock_file = tmp_path / "requirements.lock"
    lock_file.write_text("click==1.0 \\\n    --hash=sha256:00\nno-such-package==2.0 \\\n    --hash=sha256:00\n")

    different = await result_of(environment_checks.package_versions, installation(lock_file=lock_file))
    without = await result_of(environment_checks.package_versions, installation(lock_file=tmp_path / "absent"))

    what_to_do = "run `python -m pip install --require-hashes -r requirements.lock` in this environment."
    assert different == failed(
        f"click is {metadata.version('click')}, requirements.lock has 1.0: {what_to_do}",
        f"no-such-package 2.0 is not installed: {what_to_do}",
    )
    assert without == failed("There is no requirements.lock beside the application: install from a complete checkout.")
    assert LOCK_FILE.is_file()


async def test_a_key_set_is_fetched_and_its_algorithms_are_listed() -> None:
    with serving(key_set(one=Ed25519PrivateKey.generate(), two=generate_private_key(65537, 2048))) as issuer:
        result = await result_of(environment_checks.jwks, installation(changed={"jwks_url": issuer.url}))

    assert result == passed("usable keys: 2 (EdDSA, PS256, RS256)")


async def test_a_key_set_that_is_missing_or_not_usable_is_reported_without_its_url() -> None:
    without_kid = {"keys": [public_jwk(Ed25519PrivateKey.generate(), key_id) for key_id in (None, "one")]}
    weak_key = generate_private_key(65537, 1024)  # noqa: S505  to be refused
    with serving(key_set(weak=weak_key)) as issuer:
        checked = installation(changed={"jwks_url": issuer.url.replace("//", "//user:canary@")})
        weak = await result_of(environment_checks.jwks, checked)
        issuer.serve(without_kid)
        ambiguous = await result_of(environment_checks.jwks, checked)
        issuer.status = 404
        missing = await result_of(environment_checks.jwks, checked)
    unreachable = await result_of(environment_checks.jwks, checked)

    results = (weak, ambiguous, missing, unreachable)
    assert [result.status for result in results] == [CheckStatus.FAILED] * 4
    assert "canary" not in str(results)
    assert weak.messages[0].startswith("JWKS_URL has no key set with a signing key for RS256")
    assert ambiguous.messages[0].startswith("JWKS_URL has several keys, and one without `kid`")
    assert missing.messages[0].startswith("JWKS_URL responds with 404: check the URL")
    assert unreachable.messages[0].startswith("JWKS_URL cannot be reached from here: check")


async def test_no_key_set_is_needed_with_a_shared_secret() -> None:
    shared = installation(changed={"jwks_url": None, "jwt_hs256_secret": KEY})
    neither = installation(changed={"jwks_url": None})

    assert await result_of(environment_checks.jwks, shared) == passed(
        "not needed: tokens are signed with a shared secret"
    )
    assert await result_of(environment_checks.jwks, neither) == CheckResult(
        CheckStatus.SKIPPED, ("JWKS_URL is not set",)
    )


# The database


@pytest.fixture(scope="module")
def insecure() -> Iterator[MisconfiguredPostgres]:
    with (
        temporary_directory() as directory,
        pytest.MonkeyPatch.context() as patch,
        misconfigured_postgres(directory, patch) as found,
    ):
        yield found


@pytest.fixture
async def role(db: str) -> AsyncIterator[str]:
    """The application's role, in which the pools are open until the test ends."""
    name = f"application_{secrets.token_hex(4)}"
    await roles.grant_privileges(url_for_role(db, name, "secret"))
    await pools.disconnect()
    await pools.connect(url_for_role(db, name))
    yield name
    await pools.disconnect()
    await pools.connect(db)
    await pools.fetch(f"DROP OWNED BY {name}")
    await pools.fetch(f"DROP ROLE {name}")


async def test_a_good_database_passes_every_check(role: str) -> None:
    checks = (
        database_checks.version, database_checks.encryption, database_checks.durability, database_checks.connections,
        database_checks.clock, database_checks.migrations, database_checks.role,
    )  # fmt: skip

    results = [await result_of(check) for check in checks]

    assert [result.status for result in results] == [CheckStatus.OK] * 7
    version, encryption, durability, connections, clock, migrations, privileges = (
        result.messages[0] for result in results
    )
    assert version.startswith("PostgreSQL 1")
    assert encryption == "not needed: the database is on this machine"
    assert durability == "fsync, synchronous_commit and full_page_writes are on"
    assert connections.startswith("at most 12 for WORKERS=1, ")
    assert clock == "the clocks differ by less than 2 s"
    assert migrations == "all are applied"
    assert privileges == "it owns nothing and cannot change history"


async def test_every_problem_of_an_insecure_database_is_reported(insecure: MisconfiguredPostgres) -> None:
    reached = await result_of(database_checks.reachable, installation(database_url=insecure.url))
    try:
        durability = await result_of(database_checks.durability)
        connections = await result_of(database_checks.connections)
        migrations = await result_of(database_checks.migrations)
        owner = await result_of(database_checks.role)
    finally:
        await pools.disconnect()

    assert reached == passed("it responds")
    assert [message.partition(",")[0] for message in durability.messages] == [
        "fsync is off", "synchronous_commit is off", "full_page_writes is off",
    ]  # fmt: skip
    assert connections.messages[0].startswith("WORKERS=1 needs up to 12 connections, and this role has 9:")
    assert migrations.messages[0].startswith("Migrations are pending (0001_initial, ")
    assert migrations.messages[0].endswith("): run `python -m app migrate` as the owner.")
    assert owner.status is CheckStatus.FAILED
    assert owner.messages[-1] == roles.ADVICE


async def test_an_unencrypted_connection_over_a_network_fails(insecure: MisconfiguredPostgres) -> None:
    if insecure.network_url is None:
        pytest.skip("this machine has no address but its loopback")
    await result_of(database_checks.reachable, installation(database_url=insecure.network_url))
    try:
        result = await result_of(database_checks.encryption)
    finally:
        await pools.disconnect()

    assert result.status is CheckStatus.FAILED
    assert result.messages[0].startswith("The connection to the database is not encrypted: set ssl = on")


def test_an_encrypted_connection_over_a_network_passes() -> None:
    assert database_checks.check_encryption(is_local=False, is_encrypted=True) == "the connection is encrypted"
    with pytest.raises(CheckFailed):
        database_checks.check_encryption(is_local=False, is_encrypted=False)


def test_an_old_postgresql_fails() -> None:
    assert database_checks.check_version(150_000, "15.0") == "PostgreSQL 15.0"
    with pytest.raises(CheckFailed, match=r"^PostgreSQL is 14\.12: upgrade to 15 or newer\.$"):
        database_checks.check_version(140_012, "14.12")


@pytest.mark.parametrize("database", [102.5, 98.0])
def test_clocks_may_differ_by_two_seconds(database: float) -> None:
    assert database_checks.check_clock_difference(100.0, database, 100.5) == "the clocks differ by less than 2 s"


@pytest.mark.parametrize(("database", "difference"), [(102.7, "2.2"), (97.9, "2.1")])
def test_a_larger_clock_difference_fails(database: float, difference: str) -> None:
    with pytest.raises(CheckFailed, match=f"differ by {difference} s: synchronise both with NTP"):
        database_checks.check_clock_difference(100.0, database, 100.5)


async def test_a_connection_limit_of_the_role_that_is_too_low_fails(role: str, database_url: str) -> None:
    await pools.disconnect()
    await pools.connect(database_url)
    await pools.fetch(f"ALTER ROLE {role} CONNECTION LIMIT 11")
    await pools.disconnect()
    await pools.connect(url_for_role(database_url, role))

    too_few = await result_of(database_checks.connections)
    enough = await result_of(database_checks.connections, installation(changed={"posting_connections": 1}))

    assert too_few.messages[0].startswith("WORKERS=1 needs up to 12 connections, and this role has 11:")
    assert enough == passed("at most 11 for WORKERS=1, 11 available to this role")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "DATABASE_URL is not set: production needs a PostgreSQL 15 or newer."),
        ("postgresql://a:canary@127.0.0.1:1/credits", "The database cannot be reached: start it, and check host"),
        ("postgresql://a:canary/x@127.0.0.1/credits", "DATABASE_URL: a port is not a number from 1 to 65535"),
    ],
)
async def test_an_unreachable_database_is_reported_without_its_url(url: str | None, message: str) -> None:
    result = await result_of(database_checks.reachable, installation(database_url=url))

    assert result.status is CheckStatus.FAILED
    assert result.messages[0].startswith(message)
    assert "canary" not in result.messages[0]


async def test_a_database_or_role_that_does_not_exist_is_reported(insecure: MisconfiguredPostgres) -> None:
    no_role = installation(database_url=url_for_role(insecure.url, "nobody_canary"))
    no_database = installation(database_url=insecure.url.replace("/credits?", "/canary?"))

    role_result = await result_of(database_checks.reachable, no_role)
    database_result = await result_of(database_checks.reachable, no_database)

    assert role_result.messages[0].startswith("The database refuses the role of DATABASE_URL, or its password: check")
    assert database_result.messages[0].startswith("The database named in DATABASE_URL does not exist: create it")


async def test_a_rate_card_counts_once_it_is_in_force(db: str) -> None:
    none = await result_of(database_checks.rate_card)
    await publishing.publish_default_card()

    assert none == failed("No rate card is in force: publish one with `python -m app prices publish FILE`.")
    assert await result_of(database_checks.rate_card) == passed("version 1 is in force")


async def test_only_active_service_keys_count(db: str) -> None:
    none = await result_of(database_checks.service_keys)
    revoked = await service_keys.create_key("revoked", [Scope.CHARGE])
    await service_keys.revoke_key(revoked.split("_")[1])
    await service_keys.create_key("expired", [Scope.CHARGE], expires_at=datetime.now(UTC) + timedelta(hours=1))
    await pools.fetch("UPDATE service_key SET expires_at = clock_timestamp() WHERE name = 'expired'")
    still_none = await result_of(database_checks.service_keys)
    await service_keys.create_key("executor", [Scope.CHARGE])

    assert none == still_none
    assert none.messages[0].startswith("No service key is active: create one with `python -m app keys create")
    assert await result_of(database_checks.service_keys) == passed("1 active")


# Running the checks


async def test_an_unexpected_exception_fails_its_check_without_its_text_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def raises(_: Installation) -> str:
        raise RuntimeError("canary")

    async def hangs(_: Installation) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    checks = (
        Check(name="broken", run=raises),
        Check(name="slow", run=hangs),
        Check(name="after", run=settings_checks.hosts, requires="broken"),
        Check(name="last", run=settings_checks.hosts),
    )
    monkeypatch.setattr(runner, "CHECK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(runner, "CHECKS", checks)

    results = await runner.run_checks(installation())

    assert results["broken"] == failed(
        "The check failed with RuntimeError: fix the problems above, and run this again."
    )
    assert results["slow"] == failed(
        "There was no response within 0.05 s: find out what blocks it, and run this again."
    )
    assert results["after"] == CheckResult(CheckStatus.SKIPPED, ("requires broken",))
    assert results["last"].status is CheckStatus.OK


async def test_a_missing_privilege_is_reported_with_what_to_do(role: str, database_url: str) -> None:
    await pools.disconnect()
    await pools.connect(database_url)
    await pools.fetch(f"REVOKE SELECT ON rate_card FROM {role}")
    await pools.disconnect()

    results = await runner.run_checks(installation(database_url=url_for_role(database_url, role)))

    await pools.connect(database_url)
    assert results["rate-card"] == failed(
        "DATABASE_URL's role may not read this: run `python -m app migrate` with MIGRATION_DATABASE_URL set."
    )
