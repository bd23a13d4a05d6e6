"""Running `python -m app` as somebody runs it, and a place for what it keeps."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from app.settings import Settings

CHECKOUT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "app")
SETTINGS = {name.upper() for name in Settings.model_fields}


def environment(**chosen: str) -> dict[str, str]:
    """This process's environment, with no settings but `chosen`."""
    return {name: value for name, value in os.environ.items() if name not in SETTINGS} | chosen


def run(*arguments: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """`python -m app` with `arguments`, no settings but `chosen`, to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=CHECKOUT,
        env=environment(**chosen),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def address_of(url: str, role: str, password: str | None = None) -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}{':' + password if password else ''}@{place}"))


@contextmanager
def open_place() -> Iterator[Path]:
    """A new directory into which every user may look, and nothing of it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="credits-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        for link in directory.rglob("cluster"):
            if link.is_symlink():
                shutil.rmtree(link.resolve().parent)
        shutil.rmtree(directory)


@contextmanager
def serving(**chosen: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A server with these settings, ended cleanly afterwards: its address, and the tokens it printed, by kind."""
    with started(None, **chosen) as (_, url, tokens):
        yield url, tokens


@contextmanager
def started(log: Path | None, **chosen: str) -> Iterator[tuple[int, str, Mapping[str, str]]]:
    """As `serving`, with the id of its process. `log`: where what it writes to stderr is kept."""
    kept = log.open("wb") if log is not None else None
    process = subprocess.Popen(
        [*COMMAND, "serve"], cwd=CHECKOUT, env=environment(**chosen), stdout=subprocess.PIPE, stderr=kept, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("  curl "):
                break
        found = re.search(r"^Serving on (\S+) ", said)
        tokens = dict(re.findall(r"^  (user|service|operator) \S+\n  (\S+)$", said, re.MULTILINE))
        assert found is not None, said
        assert set(tokens) == {"user", "service", "operator"}, said
        yield process.pid, found[1], tokens
    finally:
        if kept is not None:
            kept.close()
        process.terminate()
        assert process.wait(timeout=30) == 0
        if process.stdout is not None:
            process.stdout.close()
