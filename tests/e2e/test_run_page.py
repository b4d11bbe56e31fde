"""The page of a run that is at work, for who reads it with the keyboard or listens to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from example_project.serve import Site
from tests.e2e.test_browser import PATIENCE, RUN_THAT_GOES_ON, focused, log_in
from tests.support.shop import BROWSER, DRIVER, chromium, manage, shop_environment

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium and chromedriver"),
]

OUTPUT = "pgclone-hook-1-output"


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    with shop_environment(100) as environment:
        yield environment


def said(count: int) -> str:
    return f"""
from pgclone_admin.models import *
run = RestoreRun.objects.get()
run.events.create(text="running the hook tidy")
for number in range({count}):
    run.events.create(text=f"  line {{number}}")
"""


ANOTHER_LINE = """
from pgclone_admin.models import *
RestoreRun.objects.get().events.create(text="  %s")
"""

SWAP = """
from pgclone_admin.models import *
RestoreRun.objects.update(phase="swapping")
"""

END = """
from pgclone_admin.models import *
RestoreRun.objects.get().move("failed", error="it broke", error_code="hook_failed")
"""


def test_keyboard_and_position_stay_and_the_end_is_heard(
    environment: dict[str, str], tmp_path: Path
) -> None:
    site = Site(environment)

    def shell(code: str) -> str:
        return manage(environment, "shell", "--no-imports", "-c", code)

    with site.running(), chromium(tmp_path / "profile") as browser:

        def wait_for(is_so: Any) -> None:
            WebDriverWait(browser, PATIENCE, 0.1).until(lambda _: is_so())

        def script(text: str) -> Any:
            return browser.execute_script(text)

        def is_shown(text: str) -> bool:
            return text in script(f"return document.getElementById('{OUTPUT}').textContent")

        log_in(browser, site)
        pk = shell(RUN_THAT_GOES_ON)
        shell(said(90))
        browser.get(f"{site.url}pgclone_admin/restorerun/{pk}/change/")
        assert browser.title.startswith("running | ")

        name = browser.find_element(By.ID, "pgclone-hook-1-name")
        name.click()
        script("document.getElementById('pgclone-hook-1-name').focus()")
        shell(ANOTHER_LINE % "the first after")
        wait_for(lambda: is_shown("the first after"))
        assert focused(browser).get_attribute("id") == "pgclone-hook-1-name"

        at = script(
            f"const output = document.getElementById('{OUTPUT}');"
            "output.focus(); output.scrollTop = 40; return output.scrollTop"
        )
        assert at == 40, "it can be scrolled"
        shell(ANOTHER_LINE % "the second after")
        wait_for(lambda: is_shown("the second after"))
        assert focused(browser).get_attribute("id") == OUTPUT
        assert script(f"return document.getElementById('{OUTPUT}').scrollTop") == 40

        cancel = browser.find_element(By.XPATH, "//button[starts-with(., 'Cancel this')]")
        assert cancel.is_displayed()
        shell(SWAP)
        # It is too late then, and nothing else on the page goes.
        wait_for(lambda: not cancel.is_displayed())
        assert focused(browser).get_attribute("id") == OUTPUT

        script(
            "window.isOld = true; window.heard = [];"
            "new MutationObserver(() => window.heard.push("
            "document.querySelector('[data-announcement]').textContent))"
            ".observe(document.querySelector('[data-announcement]'), {childList: true})"
        )
        shell(END)
        wait_for(lambda: script("return window.isOld ? window.heard.length : -1") != 0)
        assert script("return window.isOld ? window.heard : ['failed']") == ["failed"]
        wait_for(lambda: not script("return window.isOld"))
        assert browser.title.startswith("failed | ")
        assert focused(browser).get_attribute("id") == OUTPUT
        region = browser.find_element(By.CSS_SELECTOR, "[data-announcement]")
        wait_for(lambda: region.get_attribute("textContent") == "failed")
