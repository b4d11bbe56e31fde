"""The demo serves the shop with its admin and a worker, and leaves nothing behind."""

from __future__ import annotations

import http.cookiejar
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket in it."""
    with tempfile.TemporaryDirectory(prefix="pgd-", dir="/tmp") as folder:
        yield Path(folder)


def logged_in(url: str, password: str) -> str:
    """The page that the login leads to."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    browser.open(url, timeout=20).close()
    token = next(cookie.value for cookie in jar if cookie.name == "csrftoken")
    form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token, "next": url}
    data = urllib.parse.urlencode(form).encode()
    with browser.open(f"{url}login/", data, timeout=20) as answer:
        return str(answer.read().decode())


def test_the_demo_serves_the_admin_until_it_is_stopped(home: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "example_project.demo", "--rows", "200"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    try:
        said = ""
        while "password " not in said.rpartition("user admin")[2] and demo.poll() is None:
            said += demo.stdout.readline()
        found = re.search(r"(http://\S+)\s+user admin, password (\S+)", said)
        assert found, said
        page = logged_in(*found.groups())
        assert "Dumps and restores" in page
        children = psutil.Process(demo.pid).children(recursive=True)
        assert any("qcluster" in " ".join(child.cmdline()) for child in children)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == 128 + signal.SIGINT
    finally:
        demo.kill()
        demo.wait()
        demo.stdout.close()
    assert [child for child in children if child.is_running()] == []
    assert list(home.iterdir()) == []
