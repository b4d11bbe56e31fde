"""An S3 service in its own process, over HTTP on 127.0.0.1."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import botocore.config

from . import S3_ACCESS_KEY, S3_CANARY, processes
from .postgres import free_port

REGION = "us-east-1"

_numbers = itertools.count(1)


class S3Server:
    """moto as a server. It checks no signature, so keys matter to the tests alone."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.endpoint_url = ""
        self._log = Path()

    def start(self) -> None:
        for _ in range(3):
            port = free_port()
            handle, name = tempfile.mkstemp(prefix="pgct-s3-", suffix=".log")
            self._log = Path(name)
            environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                env={**environment, "MOTO_ALLOW_NONEXISTENT_REGION": "true"},
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                start_new_session=True,
            )
            os.close(handle)
            processes.register(self.process.pid, "s3")
            atexit.register(self.stop)
            self.endpoint_url = f"http://127.0.0.1:{port}"
            if self._wait_until_ready():
                return
            log = self._log.read_text()
            self.stop()
        raise RuntimeError(f"the S3 server did not start:\n{log[-2000:]}")

    def _wait_until_ready(self, timeout: float = 60.0) -> bool:
        until = time.monotonic() + timeout
        while time.monotonic() < until and self.process and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(self.endpoint_url + "/moto-api/data.json", timeout=5),
            ):
                return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)
        processes.unregister(process.pid)
        atexit.unregister(self.stop)
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def client(endpoint_url: str) -> Any:
    """A boto3 client that reads no configuration of this machine and does not retry."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id=S3_ACCESS_KEY,
        aws_secret_access_key=S3_CANARY,
        config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )


class Bucket:
    """A fresh bucket and what the tests ask about it."""

    def __init__(self, endpoint_url: str) -> None:
        self.name = f"dumps-{os.getpid()}-{next(_numbers)}"
        self.endpoint_url = endpoint_url
        self.client = client(endpoint_url)
        self.client.create_bucket(Bucket=self.name)

    def location(self, prefix: str = "") -> str:
        """The value of PGCLONE_STORAGE_LOCATION for this bucket."""
        return f"s3://{self.name}/{prefix}"

    @property
    def s3_config(self) -> dict[str, str]:
        """The value of PGCLONE_S3_CONFIG, in the names of 1.x and 2+."""
        return {
            "AWS_ACCESS_KEY_ID": S3_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_CANARY,
            "AWS_DEFAULT_REGION": REGION,
        }

    def settings(self, prefix: str = "", endpoint_url: str | None = None) -> dict[str, Any]:
        """All PGCLONE_* settings that make the product use this bucket (or a proxy of it)."""
        return {
            "PGCLONE_STORAGE_LOCATION": self.location(prefix),
            "PGCLONE_S3_CONFIG": self.s3_config,
            "PGCLONE_S3_ENDPOINT_URL": endpoint_url or self.endpoint_url,
        }

    def storage_options(self, endpoint_url: str | None = None, **more: Any) -> dict[str, Any]:
        """OPTIONS of storages.backends.s3.S3Storage for an alias of STORAGES."""
        return {
            "bucket_name": self.name,
            "access_key": S3_ACCESS_KEY,
            "secret_key": S3_CANARY,
            "region_name": REGION,
            "endpoint_url": endpoint_url or self.endpoint_url,
            "file_overwrite": False,
            **more,
        }

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def open_uploads(self) -> list[str]:
        """Keys of multipart uploads that were neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        return sorted(upload["Key"] for upload in answer.get("Uploads", []))

    def body(self, key: str) -> bytes:
        with contextlib.closing(self.client.get_object(Bucket=self.name, Key=key)["Body"]) as body:
            content: bytes = body.read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def destroy(self) -> None:
        """Remove the bucket with all that is in it, also if a test removed it already."""
        try:
            for upload in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []):
                self.client.abort_multipart_upload(
                    Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            for key in self.keys():
                self.delete(key)
            self.client.delete_bucket(Bucket=self.name)
        except self.client.exceptions.NoSuchBucket:
            pass
        finally:
            self.client.close()
