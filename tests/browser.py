"""Chromium without a window, for what only a browser can tell."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def absent() -> str | None:
    """Why there is no browser, or None. Both are Debian's packages chromium and chromium-driver."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return (
        f"{' and '.join(missing)} cannot be found: apt-get install chromium chromium-driver"
        if missing
        else None
    )


@contextmanager
def chromium(
    width: int = 1280, height: int = 900, *, dark: bool = False, scripts: bool = False
) -> Iterator[WebDriver]:
    """A browser with a profile of its own; pages get no JavaScript unless asked for."""
    browser, driver = (shutil.which(program) or program for program in PROGRAMS)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        if dark:
            options.add_argument("--blink-settings=preferredColorScheme=0")
        if not scripts:
            options.add_experimental_option(
                "prefs", {"profile.managed_default_content_settings.javascript": 2}
            )
        found = webdriver.Chrome(options, Service(driver))
        try:
            found.set_page_load_timeout(60)
            yield found
        finally:
            found.quit()
