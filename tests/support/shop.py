"""The example shop on a server of its own, and a browser to look at its admin."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from example_project import embedded
from example_project.serve import MANAGE

BROWSER = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")


@contextmanager
def shop_environment(rows: int, more: Mapping[str, str] | None = None) -> Iterator[dict[str, str]]:
    """The environment in which ``manage.py`` of the shop works; its tables are filled.

    ``more`` are variables that take the place of others.
    """
    # Short enough for a unix socket in it.
    home = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
    # The wheel's own exit handler runs before this one and makes its lock file once more.
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    try:
        server = embedded.start(home)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")},
            "DATABASE_URL": server.url,
            "PGCLONE_BIN_DIR": str(server.bin_dir),
            "PGCLONE_STORAGE_LOCATION": str(home / "dumps"),
            **(more or {}),
        }
        manage(environment, "migrate", "--verbosity=0")
        manage(environment, "seed_shop", "--rows", str(rows))
        yield environment
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


def manage(environment: dict[str, str], *arguments: str) -> str:
    """What a command of the shop prints."""
    done = subprocess.run(
        [sys.executable, MANAGE, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


@contextmanager
def chromium(profile: Path, *, width: int = 1200, scripts: bool = True) -> Iterator[Any]:
    """A headless browser with a profile of its own; it runs no JavaScript without ``scripts``."""
    from selenium import webdriver  # noqa: PLC0415 - most tests need none

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument(f"--window-size={width},1400")
    if not scripts:
        forbidden = {"profile.managed_default_content_settings.javascript": 2}
        options.add_experimental_option("prefs", forbidden)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()
