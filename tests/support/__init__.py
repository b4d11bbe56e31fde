"""What the tests stand on: real servers, an S3 service, scripted programs, and checks.

Nothing here imports ``pgclone_admin`` when it is imported, so a broken product still yields
readable test failures instead of an empty test run.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds ``tests/`` and ``pgclone_admin/``."""

CANARY = "canary-Zq81-secret"
"""Password of the role ``app``. Tests grep argv, logs and messages for it."""

S3_CANARY = "canary-Hx72-s3-secret"
"""Secret key of the S3 service."""

S3_ACCESS_KEY = "testing-key"

SECRET_ROW = "secret-row-5f2c"
"""Stands in a row of "MyTable" and of "my.tab": an excluded table must not leak it."""
