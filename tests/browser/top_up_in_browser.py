"""A top-up in a real browser, on a server started as a user starts it: `make browser`.

Not named test_...: it needs Chromium, so `make test` skips it and `.ci/run` runs it.
"""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser import chromium
from tests.command_line import running_server, temporary_directory

pytestmark = pytest.mark.anyio


class SilentRequestHandler(SimpleHTTPRequestHandler):
    """Serves the files of this directory without logging requests."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def frontend() -> Iterator[str]:
    """The URL of a frontend on another origin than the server."""
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SilentRequestHandler, directory=str(Path(__file__).parent))
    ) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/frontend.html"
        server.shutdown()
        thread.join()


async def test_a_top_up_paid_on_its_page_is_in_the_header_within_a_second(frontend: str) -> None:
    with temporary_directory() as place, running_server(DATA_DIR=str(place), PORT="0") as (server, tokens):
        async with chromium.running() as browser:
            header = await browser.open(f"{frontend}#{quote(server, safe='')}#{tokens['user']}")
            await header.until("window.seen?.length > 0")
            before = await header.value("seen.at(-1).available")

            await header.value("document.getElementById('buy').click()")
            payment_url = await header.until("document.getElementById('pay').href")
            page = await browser.open(payment_url)
            assert await page.until("document.querySelector('.amount')?.textContent") == "5.00 USD"
            paid_at = await page.value("[Date.now(), document.querySelector('button.pay').click()][0]")

            await header.until(f"seen.at(-1).available === {before} + 500")
            assert await header.value("document.getElementById('available').value") == str(before + 500)
            seen_at = await header.value(f"seen.find(one => one.available === {before} + 500).at")
            assert 0 <= seen_at - paid_at <= 1_000
            await page.until("location.pathname === '/thanks'")
            print(f"from the click on Pay to the header: {seen_at - paid_at} ms")
