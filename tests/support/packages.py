"""Packages of PyPI that are no dependency of anything here, for single processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from . import ROOT


def with_packages(folder: Path, *requirements: str) -> dict[str, str]:
    """The environment of a process that finds the packages, put into ``folder``, before all else.

    Skips the test where PyPI is out of reach.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--target", folder, *requirements],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    # What a package has in no version is not offered by anybody; of others pip lists the versions.
    if done.returncode and "(from versions: none)" in done.stderr:
        pytest.skip(f"PyPI is out of reach: {' '.join(requirements)}")
    assert done.returncode == 0, done.stderr
    return {"PYTHONPATH": f"{folder}:{ROOT}"}
