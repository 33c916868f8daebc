"""The browser that tests look at pages with: the system's Chromium or Chrome, without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("google-chrome", "chromium", "chromium-browser"))), None)
# The last argument is the missing network: no name but the test server's address is ever found.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ARGUMENTS += ["--disable-sync", "--no-first-run", "--disable-dev-shm-usage"]
ARGUMENTS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
SCREENS = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@contextmanager
def opened() -> Iterator[Browser]:
    """The browser, for as long as the block lasts; without one, the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("no google-chrome, chromium or chromium-browser is installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module; it ends with it, since its event loop would be in the way of other tests."""
    with opened() as started:
        yield started
