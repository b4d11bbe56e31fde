"""Pictures of every page of the admin, light, dark and narrow: ``scripts/screenshots``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By

from example_project.serve import LOGIN, Site
from tests.support.shop import BROWSER, DRIVER, chromium, manage, shop_environment

LOOKS = {"light": (1280, "light"), "dark": (1280, "dark"), "narrow": (400, "light")}

LINKS = "#result_list tbody a"

OTHER_STATES = """
from datetime import timedelta
from django.utils import timezone
from pgclone_admin.models import *
now = timezone.now()
done = RestoreRun.objects.exclude(location="").latest("requested_at")
def make(status, ago, **fields):
    moment = now - timedelta(seconds=ago)
    begun = {} if status == "queued" else dict(started_at=moment, heard_at=moment,
        worker="web1:4711", process="web1:4711:1")
    run = RestoreRun(key=done.key, location=done.location, database=done.database,
        target=done.target, requested_by="ada", requested_at=moment, status=status,
        **begun, **fields)
    run.save()
    for number, text in enumerate(["checking", "restoring"] if begun else []):
        run.events.create(level="phase", text=text, at=moment + timedelta(seconds=number))
    return run
run = make("running", 65, kind="drill", phase="restoring", bytes_done=7_300_000_000,
    bytes_total=11_900_000_000)
RestoreRun.objects.filter(pk=run.pk).update(heard_at=now + timedelta(hours=1))
run = make("failed", 7200, kind="restore", finished_at=now, phase="restoring",
    error_code="integrity_error", hint="Nothing was changed. Choose another dump, and delete "
    "this one.", error="the dump is damaged: its SHA-256 is not that of its manifest")
run.events.create(level="warning", text="the role of this connection is a superuser")
make("running", 900, kind="verify", phase="verifying")
run = make("queued", 300, kind="verify", error_code="not_queued", error="the queue cannot be "
    "reached: ConnectionError", hint="Start the broker of django-q2, then queue it again.")
"""


def main(folder: Path) -> int:
    if not (BROWSER and DRIVER):
        print("error: chromium and chromedriver are needed", file=sys.stderr)
        print("hint: on Debian: apt-get install chromium chromium-driver", file=sys.stderr)
        return 1
    folder.mkdir(exist_ok=True)
    with shop_environment(rows=5_000) as environment, tempfile.TemporaryDirectory() as profile:
        key = manage(environment, "pgclone", "dump")
        manage(environment, "pgclone", "restore", key, "--reversible")
        manage(environment, "pgclone", "restore", key, "--to", ":beside")
        manage(environment, "pgclone", "restore", key, "--hold")
        manage(environment, "shell", "--no-imports", "-c", OTHER_STATES)
        site = Site(environment)
        with site.running(), chromium(Path(profile)) as browser:
            browser.get(site.url)
            browser.find_element(By.NAME, "username").send_keys(LOGIN)
            browser.find_element(By.NAME, "password").send_keys(site.password)
            browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
            for name, url in pages(browser, f"{site.url}pgclone_admin/"):
                for look, (width, scheme) in LOOKS.items():
                    path = folder / f"{name}-{look}.png"
                    take(browser, url, path, width=width, scheme=scheme)
                    print(path)
    return 0


def pages(browser: Any, app: str) -> Iterator[tuple[str, str]]:
    """Names and addresses; of each list the page of its first entry, and what leads on from it."""
    yield "index", app
    for model in ("dump", "restorerun", "localdatabase", "configuration"):
        yield f"{model}s", f"{app}{model}/"
        browser.get(f"{app}{model}/")
        tools = [
            a.get_attribute("href")
            for a in browser.find_elements(By.CSS_SELECTOR, ".object-tools a")
        ]
        for address in filter(None, tools):
            yield f"{model}s-{address.rstrip('/').rpartition('/')[2]}", address
        browser.get(f"{app}{model}/")
        if not (entries := browser.find_elements(By.CSS_SELECTOR, LINKS)):
            continue
        if model == "restorerun":
            runs = [str(entry.get_attribute("href")) for entry in entries]
            yield from ((f"restorerun-{number}", run) for number, run in enumerate(runs))
            browser.get(f"{app}{model}/")
            entries = browser.find_elements(By.CSS_SELECTOR, LINKS)
        entry = str(entries[0].get_attribute("href"))
        yield model, entry
        browser.get(entry)
        actions = [
            a.get_attribute("href")
            for a in browser.find_elements(By.CSS_SELECTOR, ".pgclone-actions a")
        ]
        for address in filter(None, actions):
            last = address.partition("?")[0].rstrip("/").rpartition("/")[2]
            yield f"{model}-{last}", address


def take(browser: Any, url: str, path: Path, *, width: int, scheme: str) -> None:
    """A picture of the whole page."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(url)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": height})
    browser.save_screenshot(str(path))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
