"""A headless Chromium for tests of pages, by selenium and Debian's chromedriver; what needs it says so where it is missing."""

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

MISSING = "no Chromium, chromedriver or selenium here: pages are not opened (apt-get install chromium chromium-driver)"


@contextmanager
def chromium():
    """A browser with a window of 1,280 x 800."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        webdriver = None
    if webdriver is None or program is None or driver is None:
        pytest.skip(MISSING)
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        chrome = 800 - browser.execute_script("return innerHeight")
        browser.set_window_size(1280, 800 + chrome)
        yield browser
    finally:
        browser.quit()


def open_page(browser, path: Path) -> None:
    """Opens a page and waits until it is built."""
    browser.get(path.resolve().as_uri())
    deadline = time.monotonic() + 60
    while not browser.execute_script("return document.body.dataset.ready"):
        assert time.monotonic() < deadline, browser.get_log("browser")
        time.sleep(0.05)


def settle(browser) -> None:
    """Waits until what was asked for is drawn."""
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))")
