"""Chromium as it comes, and pages of the console in it: how tests open and end them.

`make test` fetches it where the machine has none (tests/install_browser.sh).
"""

import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

PATIENCE = 30_000
_FETCHED = Path(sys.prefix) / "browser"


def binary() -> str:
    """Return the path of Chromium."""
    found = shutil.which("chromium", path=f"{_FETCHED}:{os.environ['PATH']}")
    assert found, "chromium is not here: `make install-browser` fetches it into .venv"
    return found


@contextlib.asynccontextmanager
async def chromium(*without: str) -> AsyncIterator[Browser]:
    """Run Chromium without a window; `without` these options, which Playwright gives it."""
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(
            executable_path=binary(), args=arguments, ignore_default_args=list(without)
        )
        try:
            yield browser
        finally:
            await browser.close()


class Console:
    """A page of the console, which fails a test for any error that the browser reports."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._said)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    async def open(self, path: str = "") -> None:
        """Open a page and wait until it shows what it asked for."""
        await self.page.goto(f"{self.base}/console{path}")
        await self.page.wait_for_selector("main h1")

    async def text(self, selector: str = "main") -> str:
        """Return the text of an element."""
        return await self.page.inner_text(selector)

    async def sees(self, text: str, selector: str = "main") -> None:
        """Wait until an element shows a text."""
        await self.page.locator(selector, has_text=text).first.wait_for()


@contextlib.asynccontextmanager
async def console(base: str, **context: Any) -> AsyncIterator[Console]:
    """Open a tab for the console of a server, and look for errors at the end."""
    async with chromium() as browser:
        opened = await browser.new_context(**context)
        shown = Console(await opened.new_page(), base)
        yield shown
        assert not shown.faults
