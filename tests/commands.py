"""Running `python -m app` as somebody runs it, and a place for what it keeps."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
