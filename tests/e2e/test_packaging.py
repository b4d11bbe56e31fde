"""The wheel holds what an installed site needs."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_types_and_its_licence_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {
        "pgclone_admin/py.typed",
        "pgclone_admin/core/restore.py",
        "pgclone_admin/management/commands/pgclone.py",
        "pgclone_admin/storage/s3.py",
        "pgclone_admin/templates/admin/pgclone_admin/dump/change_form.html",
        "pgclone_admin/templates/pgclone_admin/run.html",
        "pgclone_admin/static/pgclone_admin/pgclone.css",
        "pgclone_admin/static/pgclone_admin/run.js",
    } <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pgclone_admin"}


def test_an_installed_wheel_has_the_command(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", wheel],
        check=True,
        capture_output=True,
    )
    settings = tmp_path / "site_settings.py"
    settings.write_text(
        "INSTALLED_APPS = ['pgclone_admin']\nSECRET_KEY = 'x'\nUSE_TZ = True\n"
        "from pgclone_admin.routing import configure\n"
        "DATABASES = configure({'default': {'ENGINE': 'django.db.backends.postgresql',"
        " 'NAME': 'shop'}})\n"
    )
    # The dependencies are those of this environment; only the package is the installed one.
    dependencies = os.pathsep.join(path for path in sys.path if "site-packages" in path)

    done = subprocess.run(
        [python, "-m", "django", "pgclone", "ls"],
        env={"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": f"{tmp_path}:{dependencies}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
