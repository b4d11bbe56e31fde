"""A member of staff with a browser, a real worker behind the site, and a database that is replaced
under both."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from example_project.demo import Shop
from example_project.serve import LOGIN, Site
from tests.support import S3_ACCESS_KEY, S3_CANARY
from tests.support.cutting_proxy import CuttingProxy
from tests.support.s3 import REGION, Bucket
from tests.support.shop import BROWSER, DRIVER, chromium, manage, shop_environment

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium and chromedriver"),
]

PATIENCE = 60.0
"""Seconds for a run of a small shop on a busy machine."""

APPEARS_WITHIN = 10.0
"""Seconds for a page."""

ROWS = 20_000

NAME = "shop"

MOST_TABS = 150
"""How often the key is pressed at most to come to something on a page."""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with shop_environment(ROWS) as environment:
        yield environment


@pytest.fixture
def environment_of_s3(s3_bucket: Bucket, s3_proxy: CuttingProxy) -> Iterator[dict[str, str]]:
    """The dumps are in a bucket, behind a slow network."""
    variables = {
        "PGCLONE_STORAGE_LOCATION": s3_bucket.location("dumps/"),
        "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": S3_CANARY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": s3_proxy.endpoint_url,
    }
    with shop_environment(ROWS, variables) as environment:
        yield environment


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile") as browser:
        yield browser


@dataclass
class Watched:
    """What a page has shown of a run from its beginning to its end."""

    states: list[str] = field(default_factory=list)
    bars: list[int] = field(default_factory=list)
    """Per cent, each once."""


def log_in(browser: Any, site: Site) -> None:
    browser.get(site.url)
    browser.find_element(By.NAME, "username").send_keys(LOGIN)
    browser.find_element(By.NAME, "password").send_keys(site.password)
    press(browser, "Log in")


def is_logged_in(browser: Any) -> bool:
    return "LOG OUT" in browser.find_element(By.ID, "user-tools").text.upper()


def press(browser: Any, text: str) -> None:
    """Follows the link, or presses the button, that says so, as soon as it is there: a page that
    has watched a run is loaded anew at its end. Returns when the browser has left the page, which
    the driver does not wait for on a busy machine."""
    path = f"//*[self::a or self::button][normalize-space()='{text}'] | //input[@value='{text}']"
    end = time.monotonic() + APPEARS_WITHIN
    while True:
        try:
            page = browser.find_element(By.TAG_NAME, "html")
            browser.find_element(By.XPATH, path).click()
            break
        except WebDriverException:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)
    WebDriverWait(browser, APPEARS_WITHIN).until(lambda _: _is_left(page))


def _is_left(page: Any) -> bool:
    try:
        page.is_enabled()
    except WebDriverException:  # stale, in one of the ways in which the driver says so
        return True
    return False


def state(browser: Any) -> str:
    return " ".join(e.text for e in browser.find_elements(By.CSS_SELECTOR, ".pgclone-state"))


def wait_for_success(browser: Any, look_again: Callable[[], None] = lambda: None) -> Watched:
    """Watches a run's page; it is not touched, unless ``look_again`` does."""
    seen = Watched()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            said = state(browser)
            bars = browser.find_elements(By.CSS_SELECTOR, "progress[role=progressbar]")
            shown = [int(bar.get_attribute("aria-valuenow")) for bar in bars]
        except WebDriverException:  # the page was being drawn anew
            continue
        if said not in seen.states:
            seen.states.append(said)
        seen.bars += [bar for bar in shown if bar not in seen.bars]
        if "succeeded" in said:
            return seen
        assert "failed" not in said, browser.find_element(By.TAG_NAME, "body").text
        time.sleep(0.05)
        look_again()
    text = browser.find_element(By.TAG_NAME, "body").text
    raise AssertionError(f"it did not succeed: {seen}; the page says: {text}")


def confirm(browser: Any) -> None:
    """Types the name of the database and presses the red button."""
    fields = browser.find_elements(By.CSS_SELECTOR, ".pgclone-confirm input[type=text]")
    assert fields, browser.find_element(By.TAG_NAME, "body").text
    fields[0].send_keys(NAME)
    press(browser, f"Replace database {NAME}")


def lose_rows(shop: Shop) -> None:
    with shop.cursor() as cursor:
        cursor.execute("DELETE FROM shop_orderline WHERE id % 2 = 0")


def choose_reversible(browser: Any) -> None:
    reversible = browser.find_element(By.NAME, "reversible")
    if not reversible.is_selected():
        reversible.click()


def test_staff_dump_restore_and_undo_in_the_browser_and_stay_logged_in(
    environment_of_s3: dict[str, str], browser: Any, s3_bucket: Bucket, s3_proxy: CuttingProxy
) -> None:
    shop = Shop(environment_of_s3["DATABASE_URL"])
    site = Site(environment_of_s3)
    with site.running():
        log_in(browser, site)
        press(browser, "Dumps")
        press(browser, "Dump now")
        press(browser, "Dump now")
        wait_for_success(browser)
        assert [key.endswith((".dump", ".json")) for key in s3_bucket.keys("dumps/")] == [True] * 2
        before = shop.contents()
        lose_rows(shop)
        changed = shop.contents()
        assert changed.differences(before) == ["shop_orderline"]

        press(browser, "Restore…")
        choose_reversible(browser)
        press(browser, "Show the plan")
        assert "migrate" in browser.find_element(By.CSS_SELECTOR, ".pgclone-sequence").text
        s3_proxy.pause = 1.0
        confirm(browser)
        watched = wait_for_success(browser)
        assert len(watched.bars) >= 3, watched
        assert watched.bars == sorted(watched.bars)
        assert any("per second" in said for said in watched.states)
        assert shop.contents().differences(before) == []
        assert is_logged_in(browser)

        browser.refresh()
        press(browser, "Undo with :pre…")
        confirm(browser)
        wait_for_success(browser)
        assert shop.contents().differences(changed) == []
        browser.get(site.url)
        assert is_logged_in(browser)


def find(browser: Any, selector: str) -> Any:
    """The first such thing, as soon as it is there."""
    return WebDriverWait(browser, APPEARS_WITHIN).until(
        lambda browser: browser.find_element(By.CSS_SELECTOR, selector)
    )


def focused(browser: Any) -> Any:
    return browser.switch_to.active_element


def tab_to(browser: Any, is_there: Callable[[Any], bool]) -> None:
    """Goes on with the tabulator key until the keyboard is at the right thing."""
    for _ in range(MOST_TABS):
        try:
            if is_there(focused(browser)):
                return
            focused(browser).send_keys(Keys.TAB)
        except WebDriverException:  # another page is being loaded
            time.sleep(0.05)
    raise AssertionError(f"the keyboard does not come there; it is at {focused(browser).tag_name}")


def says(text: str) -> Callable[[Any], bool]:
    return lambda element: element.tag_name in ("a", "button") and element.text == text


def is_named(name: str) -> Callable[[Any], bool]:
    return lambda element: element.get_attribute("name") == name


def test_a_restore_takes_nothing_but_the_keyboard(
    environment: dict[str, str], browser: Any
) -> None:
    shop = Shop(environment["DATABASE_URL"])
    site = Site(environment)
    with site.running():
        log_in(browser, site)
        browser.get(f"{site.url}pgclone_admin/dump/dump-now/")
        press(browser, "Dump now")
        wait_for_success(browser)
        before = shop.contents()
        lose_rows(shop)
        browser.refresh()

        tab_to(browser, says("Restore…"))
        focused(browser).send_keys(Keys.ENTER)
        tab_to(browser, is_named("reversible"))
        if not focused(browser).is_selected():
            focused(browser).send_keys(Keys.SPACE)
        tab_to(browser, says("Show the plan"))
        focused(browser).send_keys(Keys.ENTER)
        tab_to(browser, is_named("confirm_name"))
        focused(browser).send_keys("another", Keys.ENTER)
        # What is wrong is where the keyboard is.
        find(browser, ".pgclone-field-confirm_name .errorlist")
        assert is_named("confirm_name")(focused(browser))
        focused(browser).send_keys(Keys.CONTROL, "a")
        focused(browser).send_keys(NAME)
        tab_to(browser, says(f"Replace database {NAME}"))
        outline = focused(browser).value_of_css_property("outline-style")
        assert outline != "none", "who comes there does not see it"
        focused(browser).send_keys(Keys.ENTER)
        wait_for_success(browser)

        assert shop.contents().differences(before) == []
        tab_to(browser, says("Undo with :pre…"))


RUN_THAT_GOES_ON = """
from datetime import timedelta
from django.utils import timezone
from pgclone_admin.models import *
now = timezone.now()
print(RestoreRun.objects.create(kind="drill", status="running", started_at=now, target="x",
    database="default", heard_at=now + timedelta(hours=1), worker="far:1", process="far:1:1").pk)
"""


def test_who_may_not_watch_any_more_is_told_why(environment: dict[str, str], browser: Any) -> None:
    site = Site(environment)

    def shell(code: str) -> str:
        return manage(environment, "shell", "--no-imports", "-c", code)

    def wait_for_notice(text: str) -> None:
        def is_told(_: Any) -> bool:
            return text in browser.find_element(By.CSS_SELECTOR, "[data-notice]").text

        WebDriverWait(browser, PATIENCE).until(is_told)

    with site.running():
        log_in(browser, site)
        pk = shell(RUN_THAT_GOES_ON)
        browser.get(f"{site.url}pgclone_admin/restorerun/{pk}/change/")
        users = "from django.contrib.auth.models import User; User.objects"
        shell(f"{users}.update(is_superuser=False)")
        wait_for_notice("You are logged in, but you may not see this any more")
        shell(f"{users}.update(is_staff=False)")
        wait_for_notice("You are not logged in any more")


def test_everything_works_without_javascript(environment: dict[str, str], tmp_path: Path) -> None:
    shop = Shop(environment["DATABASE_URL"])
    site = Site(environment)
    looks = 0
    with site.running(), chromium(tmp_path / "profile", scripts=False) as browser:

        def look_again() -> None:
            nonlocal looks
            try:
                browser.find_element(By.LINK_TEXT, "Refresh this page").click()
                looks += 1
            except WebDriverException:
                # The page is being loaded; or the swap ended its session in a query, which shows
                # an error until somebody reloads it.
                with contextlib.suppress(WebDriverException):
                    browser.refresh()

        log_in(browser, site)
        press(browser, "Dumps")
        press(browser, "Dump now")
        press(browser, "Dump now")
        wait_for_success(browser, look_again)
        before = shop.contents()
        lose_rows(shop)
        changed = shop.contents()

        press(browser, "Restore…")
        choose_reversible(browser)
        press(browser, "Show the plan")
        confirm(browser)
        wait_for_success(browser, look_again)
        assert shop.contents().differences(before) == []

        press(browser, "Undo with :pre…")
        confirm(browser)
        wait_for_success(browser, look_again)
        assert shop.contents().differences(changed) == []
        assert is_logged_in(browser)
        assert looks > 0, "who runs no script is shown a link"
