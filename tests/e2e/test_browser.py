"""A member of staff with a browser, a real worker behind the site, and a database that is replaced
under both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By

from example_project.demo import Shop
from example_project.serve import LOGIN, Site
from tests.support.shop import BROWSER, DRIVER, chromium, shop_environment

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium and chromedriver"),
]

PATIENCE = 60.0
"""Seconds for a run of a small shop on a busy machine."""

NAME = "shop"


APPEARS_WITHIN = 10.0
"""Seconds for a page."""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with shop_environment(rows=20_000) as environment:
        yield environment


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as browser:
        yield browser


def press(browser: Any, text: str) -> None:
    """Follows the link, or presses the button, that says so, as soon as it is there: a page that
    has watched a run is loaded anew at its end."""
    path = f"//*[self::a or self::button][normalize-space()='{text}'] | //input[@value='{text}']"
    end = time.monotonic() + APPEARS_WITHIN
    while True:
        try:
            browser.find_element(By.XPATH, path).click()
            return
        except WebDriverException:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def state(browser: Any) -> str:
    return " ".join(e.text for e in browser.find_elements(By.CSS_SELECTOR, ".pgclone-state"))


def wait_for_success(browser: Any) -> set[str]:
    """Watches a run's page without touching it; returns what it said on the way."""
    seen = set()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            said = state(browser)
        except WebDriverException:  # the page was being drawn anew
            continue
        seen.add(said)
        if "succeeded" in said:
            return seen
        assert "failed" not in said, browser.find_element(By.TAG_NAME, "body").text
        time.sleep(0.05)
    raise AssertionError(f"it did not succeed: {seen}")


def confirm(browser: Any) -> None:
    """Types the name of the database and presses the red button."""
    field = browser.find_element(By.CSS_SELECTOR, ".pgclone-confirm input[type=text]")
    field.send_keys(NAME)
    press(browser, f"Replace database {NAME}")


def test_staff_dump_restore_and_undo_in_the_browser_and_stay_logged_in(
    environment: dict[str, str], browser: Any
) -> None:
    shop = Shop(environment["DATABASE_URL"])
    site = Site(environment)
    with site.running():
        browser.get(site.url)
        browser.find_element(By.NAME, "username").send_keys(LOGIN)
        browser.find_element(By.NAME, "password").send_keys(site.password)
        press(browser, "Log in")

        press(browser, "Dumps")
        press(browser, "Dump now")
        press(browser, "Dump now")
        wait_for_success(browser)
        before = shop.contents()
        with shop.cursor() as cursor:
            cursor.execute("DELETE FROM shop_orderline WHERE id % 2 = 0")
        changed = shop.contents()
        assert changed.differences(before) == ["shop_orderline"]

        press(browser, "Restore…")
        reversible = browser.find_element(By.NAME, "reversible")
        if not reversible.is_selected():
            reversible.click()
        press(browser, "Show the plan")
        assert "migrate" in browser.find_element(By.CSS_SELECTOR, ".pgclone-sequence").text
        confirm(browser)
        wait_for_success(browser)
        assert shop.contents().differences(before) == []
        assert "LOG OUT" in browser.find_element(By.ID, "user-tools").text.upper()

        browser.refresh()
        press(browser, "Undo with :pre…")
        confirm(browser)
        wait_for_success(browser)
        assert shop.contents().differences(changed) == []
        browser.get(site.url)
        assert "LOG OUT" in browser.find_element(By.ID, "user-tools").text.upper()
