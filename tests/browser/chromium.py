"""Finds a Chromium of this machine and starts it quietly."""

import os
import shutil
from pathlib import Path
from typing import Final

from playwright.async_api import Browser, Playwright

__all__ = ["HOW_TO_GET_IT", "find_chromium", "launch"]

HOW_TO_GET_IT: Final = (
    "no Chromium found: `apt-get install chromium` or `.venv/bin/playwright install chromium`, "
    "or set GATEWAY_TEST_CHROMIUM to its path"
)
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_PLACES: Final = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
_FLAGS: Final = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # Without these it looks for its maker's hosts at every start.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def find_chromium(playwright: Playwright) -> str | None:
    """The path of a Chromium: the user's word, else the system's, else the one Playwright has installed."""
    if told := os.environ.get("GATEWAY_TEST_CHROMIUM"):
        return told
    on_path = (shutil.which(name) for name in _NAMES)
    places = (place for place in (*_PLACES, playwright.chromium.executable_path) if Path(place).is_file())
    return next((path for path in (*on_path, *places) if path), None)


async def launch(playwright: Playwright, executable: str) -> Browser:
    sandbox = hasattr(os, "geteuid") and os.geteuid() != 0  # Chromium refuses to have one as root
    return await playwright.chromium.launch(
        executable_path=executable, headless=True, chromium_sandbox=sandbox, args=list(_FLAGS)
    )
