"""Lock files, make and container files."""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from app.db import embedded_postgres
from tests.command_line import REPOSITORY, SETTINGS, run_command, temporary_directory
from tests.insecure_postgres import execute

LOCK = (REPOSITORY / "requirements.lock").read_text()
CLIENTS = REPOSITORY / "tests" / "clients"
CLIENTS_LOCK = (CLIENTS / "package-lock.json").read_text()
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


def locked() -> Iterator[tuple[str, str, int]]:
    """Name, version and number of hashes of every package in the lock file."""
    for block in re.split(r"\n(?=[a-z0-9])", LOCK):
        if found := re.match(r"([a-z0-9.-]+)==(\S+) ", block):
            yield found[1], found[2], block.count("--hash=sha256:")


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, lines joined, without comments."""
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path


# The lock file


def test_every_package_is_pinned_with_hashes() -> None:
    packages = list(locked())

    assert len(packages) > 40
    assert [name for name, _, hashes in packages if hashes == 0] == []
    assert len(packages) == len(re.findall(r"^[a-z0-9]", LOCK, re.MULTILINE))


def test_the_lock_file_contains_no_download_address() -> None:
    lines = [line for line in LOCK.splitlines() if not line.lstrip().startswith("#")]

    assert [line for line in lines if "://" in line or " @ " in line or "file:" in line or line.startswith("-")] == []
    assert "://" not in LOCK


def test_the_lock_file_satisfies_the_project() -> None:
    versions = {name: version for name, version, _ in locked()}
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]

    assert [str(need) for need in wanted if not need.specifier.contains(versions.get(need.name, "0"))] == []


# The clients of tests/clients


def test_every_npm_package_is_pinned_with_its_hash() -> None:
    wanted: dict[str, str] = json.loads((CLIENTS / "package.json").read_text())["dependencies"]
    packages: dict[str, Any] = json.loads(CLIENTS_LOCK)["packages"]
    ourselves = packages.pop("")

    assert ourselves["dependencies"] == wanted
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []


def test_the_npm_lock_file_contains_no_download_address() -> None:
    assert [word for word in ("resolved", "registry", "://") if word in CLIENTS_LOCK] == []
    assert "omit-lockfile-registry-resolved=true" in (CLIENTS / ".npmrc").read_text().splitlines()


# make


def test_make_help_lists_every_target_and_each_can_be_planned() -> None:
    make = shutil.which("make")
    assert make is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def run_make(*arguments: str) -> str:
        return subprocess.run(
            [make, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
        ).stdout

    listed = re.findall(r"^  make ([a-z-]+) +\w", run_make(), re.MULTILINE)
    [targets] = re.findall(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(targets.split())
    assert [target for target in listed if not run_make("-n", target)] == []


# The containers. No container engine runs here: the files are checked, and their steps run without one.


def test_files_copied_into_the_image_exist_and_are_not_ignored() -> None:
    sources = [source for word, rest in dockerfile() if word == "COPY" for source in rest.split()[:-1]]
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()

    assert "app" in sources
    assert "requirements.lock" in sources
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []
    assert ignored[0] == "*"
    assert [source for source in sources if f"!{source}" not in ignored] == []


def test_the_image_installs_by_hash_and_runs_as_an_unprivileged_user() -> None:
    instructions = dockerfile()
    words = [word for word, _ in instructions]

    assert words[0] == "FROM"
    assert any(word == "RUN" and "--require-hashes -r requirements.lock" in rest for word, rest in instructions)
    assert words.index("USER") < words.index("CMD")
    assert dict(instructions)["CMD"] == '["python", "-m", "app", "serve"]'
    environment = {pair.partition("=")[0] for word, rest in instructions if word == "ENV" for pair in rest.split()}
    assert environment - {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"} <= SETTINGS


def test_the_services_start_in_order_and_have_health_checks() -> None:
    services = COMPOSE["services"]

    assert set(services) == {"database", "migrate", "app"}
    assert services["database"]["image"] == "postgres:17"
    assert services["database"]["healthcheck"]["test"][1] == "pg_isready"
    assert services["migrate"]["command"] == ["python", "-m", "app", "migrate"]
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["app"]["command"] == ["python", "-m", "app", "serve"]
    assert services["app"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert "/readyz" in services["app"]["healthcheck"]["test"][-1]
    assert services["app"]["ports"] == ["127.0.0.1:8000:8000"]


def test_the_services_set_existing_settings_and_those_that_production_requires() -> None:
    environment = COMPOSE["services"]["app"]["environment"]

    assert set(environment) <= SETTINGS
    assert environment["ENVIRONMENT"] == "production"
    assert {"DATABASE_URL", "LEDGER_KEY", "JWKS_URL", "JWT_ISSUER"} <= set(environment)
    assert "@database:5432/credits" in environment["DATABASE_URL"]
    assert [volume.partition(":")[0] for volume in COMPOSE["services"]["database"]["volumes"]] == list(
        COMPOSE["volumes"]
    )


def test_secrets_and_values_of_the_identity_provider_are_required_variables() -> None:
    environment = COMPOSE["services"]["app"]["environment"]
    asked_for = {name for name, value in environment.items() if re.fullmatch(rf"\$\{{{name}:\?[^}}]+\}}", str(value))}

    assert asked_for == {"LEDGER_KEY", "JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE"}


def test_the_host_is_a_trusted_proxy_and_persisted_documents_are_mounted() -> None:
    [network] = COMPOSE["networks"]["default"]["ipam"]["config"]
    app = COMPOSE["services"]["app"]

    assert substitute(app["environment"]["FORWARDED_ALLOW_IPS"], {}) == network["gateway"]
    assert app["volumes"] == ["${DOCUMENTS:-./documents}:/srv/documents:ro"]
    assert "KNOWN_DOCUMENTS=/srv/documents" in (REPOSITORY / "docker-compose.yml").read_text()


def test_no_secret_is_in_the_compose_file() -> None:
    services = COMPOSE["services"]
    secret = [services["app"]["environment"]["LEDGER_KEY"], services["database"]["environment"]["POSTGRES_PASSWORD"]]
    for url in (services["app"]["environment"]["DATABASE_URL"], services["migrate"]["environment"][OWNER_URL]):
        secret += re.findall(r"//[a-z_]+:(.*)@database:", url)

    assert len(secret) == 4
    assert [value for value in secret if not re.fullmatch(r"\$\{\w+:\?[^}]+\}", value)] == []


def test_only_the_migration_step_has_the_credentials_of_the_tables_owner() -> None:
    database, migrate, app = (COMPOSE["services"][name]["environment"] for name in ("database", "migrate", "app"))

    assert migrate.items() - app.items() == {(OWNER_URL, migrate[OWNER_URL])}
    assert app.items() <= migrate.items()
    assert migrate[OWNER_URL].startswith(f"postgresql://{database['POSTGRES_USER']}:{database['POSTGRES_PASSWORD']}@")
    assert app["DATABASE_URL"].startswith("postgresql://credits_app:${APPLICATION_PASSWORD:")
    assert "POSTGRES_PASSWORD" not in str(app)


def test_the_container_steps_create_a_role_that_owns_nothing(directory: Path) -> None:
    """The same settings and commands, on a PostgreSQL that requires the password of that role."""
    given = {"POSTGRES_PASSWORD": secrets.token_hex(16), "APPLICATION_PASSWORD": secrets.token_hex(16)}
    given |= {
        "LEDGER_KEY": secrets.token_hex(32),
        "JWKS_URL": "https://127.0.0.1:1/",
        "JWT_ISSUER": "https://id.example",
        "JWT_AUDIENCE": "https://credits.example",
    }
    with embedded_postgres.start(directory / "postgres") as server:
        rules = directory / "postgres" / "cluster" / "pg_hba.conf"
        rules.write_text(f"local all credits_app scram-sha-256\n{rules.read_text()}")
        create_owner = "CREATE ROLE credits LOGIN SUPERUSER"  # as the image of PostgreSQL does
        drop_role = f"DROP ROLE {embedded_postgres.APPLICATION_ROLE}"
        asyncio.run(execute(server.url, f"{create_owner}; {drop_role}; SELECT pg_reload_conf()"))
        here = server.url.partition("@")[2]

        def environment(service: str, **others: str) -> dict[str, str]:
            written = COMPOSE["services"][service]["environment"]
            return {
                name: substitute(str(value), given | others).replace("@database:5432/credits", f"@{here}")
                for name, value in written.items()
            }

        migrated = run_command("migrate", **environment("migrate"))
        checked = run_command("check", "--production", **environment("app"))
        forged = run_command("check", "--production", **environment("app", APPLICATION_PASSWORD="guessed"))

    assert migrated.stdout.startswith("applied 0001_initial\n"), migrated.stderr
    passed = re.findall(r"^OK +([a-z-]+) ", checked.stdout, re.MULTILINE)
    wanted = {"settings", "secrets", "tokens", "proxy", "database", "migrations", "database-role", "rate-card"}
    assert wanted <= set(passed)
    assert re.search(r"^FAILED +database +The database refuses the role of DATABASE_URL", forged.stdout, re.MULTILINE)


OWNER_URL = "MIGRATION_DATABASE_URL"


def substitute(text: str, given: dict[str, str]) -> str:
    """Variables replaced as compose does: ${NAME}, ${NAME:-default} and ${NAME:?why}."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", lambda found: given.get(found[1], found[2] or ""), text)
