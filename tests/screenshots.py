"""Pictures of every page of the admin, light, dark and narrow: ``scripts/screenshots``."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By

from example_project.serve import LOGIN, Site
from tests.support.shop import BROWSER, DRIVER, chromium, manage, shop_environment

LOOKS = {"light": (1280, "light"), "dark": (1280, "dark"), "narrow": (400, "light")}

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
make("queued", 300, kind="verify", error_code="not_queued", error="the queue cannot be "
    "reached: ConnectionError", hint="Start the broker of django-q2, then queue it again.")
run = make("failed", 600, kind="restore", finished_at=now, phase="hooks", error_code="hook_failed",
    error="the hook \\"tidy\\" failed: no such column\\nline 1", hint="Correct the hook.")
for text in ["running the hook migrate", "  Applying shop.0001_initial... OK",
    "the hook migrate took 1.2 s", "running the hook tidy", *[f"  row {n}" for n in range(300)],
    "the hook tidy failed after 3.4 s"]:
    run.events.create(text=text)
dump = Dump.objects.create(status="failed", location=done.location, database="default",
    instance="web1", requested_by="ada", requested_at=now, started_at=now, finished_at=now,
    error="the table \\"shop_order\\" is locked", error_code="lock_timeout", hint="Wait for it.")
for text, about in [("pinned", done.key), ("deleted the dump from " + done.location, done.key),
    ("refreshed the list of dumps: 3 new, 0 missing, 0 there again", done.location)]:
    RunEvent.objects.create(level="audit", person="ada", text=text, about=about)
Configuration.objects.create(name="weekly", pre_swap_hooks=["migrate"])
"""

ROWS = """
import json
from pgclone_admin.models import *
from pgclone_admin.services.local_databases import local_databases
print(json.dumps({
    "dump": Dump.objects.filter(status="succeeded").latest("pk").pk,
    "failed_dump": Dump.objects.filter(status="failed").latest("pk").pk,
    "runs": [run.pk for run in RestoreRun.objects.all()],
    "local": {row.mark.kind: row.pk for row in local_databases()},
    "configuration": Configuration.objects.get().pk,
}))
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
        rows = json.loads(manage(environment, "shell", "--no-imports", "-c", ROWS))
        site = Site(environment)
        with site.running(), chromium(Path(profile)) as browser:
            browser.get(site.url)
            browser.find_element(By.NAME, "username").send_keys(LOGIN)
            browser.find_element(By.NAME, "password").send_keys(site.password)
            browser.find_element(By.CSS_SELECTOR, "[type=submit]").click()
            for name, url in pages(f"{site.url}pgclone_admin/", rows):
                for look, (width, scheme) in LOOKS.items():
                    path = folder / f"{name}-{look}.png"
                    take(browser, url, path, width=width, scheme=scheme)
                    print(path)
    return 0


def pages(app: str, rows: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and addresses: every page that there is to look at, of each state of a run, and of each
    kind of local database."""
    yield "index", app
    for model in ("dump", "restorerun", "localdatabase", "runevent", "configuration"):
        yield f"{model}s", f"{app}{model}/"
    for page in ("dump-now", "import"):
        yield f"dumps-{page}", f"{app}dump/{page}/"
    yield "localdatabases-copy", f"{app}localdatabase/copy/"
    yield "configurations-add", f"{app}configuration/add/"
    for page in ("change", "restore", "delete", "history"):
        yield f"dump-{page}", f"{app}dump/{rows['dump']}/{page}/"
    yield "dump-failed", f"{app}dump/{rows['failed_dump']}/change/"
    for number, run in enumerate(rows["runs"]):
        yield f"restorerun-{number}", f"{app}restorerun/{run}/change/"
    yield "restorerun-history", f"{app}restorerun/{rows['runs'][0]}/history/"
    for kind, oid in rows["local"].items():
        ways = {"held": ["swap"], "pre": ["restore"]}
        for page in ("change", "drop", *ways.get(kind, [])):
            yield f"localdatabase-{kind}-{page}", f"{app}localdatabase/{oid}/{page}/"
    for page in ("change", "history", "delete"):
        yield f"configuration-{page}", f"{app}configuration/{rows['configuration']}/{page}/"


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
