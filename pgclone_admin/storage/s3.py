"""Dumps in a bucket of S3, or of a server that speaks its protocol."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from storages.backends.s3 import S3Storage
from storages.utils import clean_name

from ..core.dump import Content
from ..core.errors import (
    ConfigurationError,
    DumpNotFound,
    InvalidName,
    StorageError,
)
from ..core.names import DumpKey
from ..core.streams import Readable
from ..settings import settings
from .base import (
    Backend,
    Breaks,
    Leftover,
    Stored,
    called_otherwise,
    removed_on_error,
    replaced_meanwhile,
    storage_errors,
    taken,
)
from .generic import StreamedFile

SMALLEST_PART = 5 * 1024 * 1024
"""Bytes of one part of an upload, as long as they are enough: the least that S3 takes, as a worker
holds several of them."""

MOST_PARTS = 10_000
"""The limit of S3, which an upload of unknown size meets only at its end."""

PARTS_IN_MEMORY = 4

HTTP_ERROR = 300
"""The first status of HTTP that is no success."""

# What the command line tool of AWS, and so PGCLONE_S3_CONFIG of django-pgclone, calls them.
ENVIRONMENT_NAMES = {
    "AWS_ACCESS_KEY_ID": "access_key",
    "AWS_SECRET_ACCESS_KEY": "secret_key",
    "AWS_SESSION_TOKEN": "security_token",
    "AWS_PROFILE": "session_profile",
    "AWS_DEFAULT_REGION": "region_name",
    "AWS_REGION": "region_name",
    "AWS_ENDPOINT_URL": "endpoint_url",
}

# Settings that a project makes for its media files and that dumps must not inherit.
OWN_OPTIONS: dict[str, Any] = {
    "custom_domain": None,
    "default_acl": None,
    "file_overwrite": True,
    "gzip": False,
    "object_parameters": {},
    # Links are signed with version 2 otherwise, which not every server takes.
    "signature_version": "s3v4",
}


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """As :func:`storage_errors`, for what boto3 raises."""
    with storage_errors(what):
        try:
            yield
        except ClientError as error:
            raise _client_error(what, error) from error
        except BotoCoreError as error:
            raise StorageError(
                f"{what}: {error}",
                hint="Check the endpoint, region and credentials of the storage.",
            ) from error


def _client_error(what: str, error: ClientError) -> StorageError:
    details = error.response.get("Error", {})
    code = str(details.get("Code", "unknown"))
    hints = {
        "NoSuchBucket": "Create the bucket, or correct its name in the storage location.",
        "404": "Create the bucket, or correct its name in the storage location.",
        "AccessDenied": "Allow the credentials to list, read, write and delete in the bucket.",
        "403": "Allow the credentials to list, read, write and delete in the bucket.",
        "InvalidAccessKeyId": "Check the credentials of the storage.",
        "SignatureDoesNotMatch": "Check the credentials of the storage.",
    }
    return StorageError(
        f"{what}: {code}, {details.get('Message') or 'no reason was given'}", hint=hints.get(code)
    )


class S3Backend(Backend):
    """A bucket behind django-storages' ``S3Storage``.

    Objects appear when their upload is completed, so a failed upload leaves nothing behind. When
    the process dies, an unfinished upload stays that nothing lists.
    """

    def __init__(self, storage: S3Storage, prefix: str = "") -> None:
        # One of our own, whose options can be changed. One for each save would load the definition
        # of S3 once more each time: 13 MB.
        self._storage = copy.copy(storage)
        self._storage.file_overwrite = True
        self._prefix = prefix

    @classmethod
    def of_location(cls, location: str) -> S3Backend:
        """The backend of ``s3://bucket/prefix/`` with the credentials of PGCLONE_S3_CONFIG."""
        bucket, _slash, rest = location.removeprefix("s3://").partition("/")
        if not bucket:
            raise ConfigurationError(f"the storage location {location!r} names no bucket")
        options = {
            **OWN_OPTIONS,
            "bucket_name": bucket,
            "location": "".join(f"{part}/" for part in rest.split("/") if part),
            **_configured(settings.s3_config),
        }
        if settings.s3_endpoint_url is not None:
            options["endpoint_url"] = settings.s3_endpoint_url
        try:
            return cls(S3Storage(**options))
        except Exception as error:
            raise ConfigurationError(f"PGCLONE_S3_CONFIG cannot be used: {error}") from error

    def save(self, name: str, content: Content, *, expected_size: int) -> None:
        with s3_errors(f'"{name}" cannot be stored'):
            if self.size(name) is not None:
                raise taken(name)
            self._storage.transfer_config = transfer_config(expected_size)
            full_name = self._prefix + name
            with (
                # An upload can be completed although its end was not awaited, or its answer lost.
                removed_on_error(lambda: self._storage.delete(full_name)),
                _told_of_failed_parts(self._storage, content),
            ):
                saved_as = self._storage.save(full_name, StreamedFile(content, full_name))
            if saved_as != full_name:
                self._storage.delete(saved_as)
                raise called_otherwise(name)

    def open(self, name: str) -> Readable:
        with s3_errors(f'"{name}" cannot be read'):
            return _ResumingReader(self._object(name), name)

    def size(self, name: str) -> int | None:
        with s3_errors(f'"{name}" cannot be read'):
            try:
                return int(self._object(name).content_length)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey"):
                    self._check_bucket()
                    return None
                raise

    def _check_bucket(self) -> None:
        """Where there is no bucket, S3 says of an object only that it is not there."""
        bucket = self._storage.bucket_name
        with s3_errors(f'the bucket "{bucket}" cannot be used'):
            self._client().head_bucket(Bucket=bucket)

    def delete(self, name: str) -> None:
        with s3_errors(f'"{name}" cannot be deleted'):
            self._storage.delete(self._prefix + name)

    def list(self, prefix: str) -> Iterator[Stored]:
        """One request for a thousand objects; sizes and dates come with them."""
        with s3_errors(f'the bucket "{self._storage.bucket_name}" cannot be listed'):
            root = self._root()
            for item in self._storage.bucket.objects.filter(Prefix=root + prefix):
                yield Stored(item.key.removeprefix(root), item.size, item.last_modified)

    def link(self, name: str, *, seconds: int, file_name: str) -> str | None:
        with s3_errors(f'no link can be made to "{name}"'):
            return str(
                self._client().generate_presigned_url(
                    "get_object",
                    Params={
                        "Bucket": self._storage.bucket_name,
                        "Key": self._key(name),
                        "ResponseCacheControl": "no-store",
                        "ResponseContentDisposition": f'attachment; filename="{file_name}"',
                        "ResponseContentType": "application/octet-stream",
                    },
                    ExpiresIn=seconds,
                )
            )

    def leftovers(self, older_than: datetime) -> Iterator[Leftover]:
        """Only uploads of what would be a dump: the bucket can be one that others use too; and only
        those that have got no part since."""
        bucket = self._storage.bucket_name
        with s3_errors(f'the uploads to the bucket "{bucket}" cannot be listed'):
            root = self._root()
            paginator = self._client().get_paginator("list_multipart_uploads")
            for page in paginator.paginate(Bucket=bucket, Prefix=root):
                for upload in page.get("Uploads", ()):
                    name = str(upload["Key"]).removeprefix(root)
                    if upload["Initiated"] < older_than and _is_key_of_dump(name):
                        changed = self._last_part(upload)
                        if changed < older_than:
                            yield Leftover(
                                name, changed, kind="unfinished upload", upload=upload["UploadId"]
                            )

    def _last_part(self, upload: Any) -> datetime:
        """When the newest part of an upload came, or when it began, where that is not told."""
        parts = self._client().get_paginator("list_parts")
        found: list[datetime] = [upload["Initiated"]]
        with suppress(ClientError):
            for page in parts.paginate(
                Bucket=self._storage.bucket_name, Key=upload["Key"], UploadId=upload["UploadId"]
            ):
                found += [part["LastModified"] for part in page.get("Parts", ())]
        return max(found)

    def discard(self, leftover: Leftover) -> None:
        with s3_errors(f'the upload of "{leftover.name}" cannot be aborted'):
            try:
                self._client().abort_multipart_upload(
                    Bucket=self._storage.bucket_name,
                    Key=self._key(leftover.name),
                    UploadId=leftover.upload,
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                    raise

    def _root(self) -> str:
        """What the keys of the location begin with."""
        root = self._key("") if self._prefix else self._storage.location.lstrip("/")
        return root and f"{root.rstrip('/')}/"

    def _client(self) -> Any:
        return self._storage.connection.meta.client

    def _key(self, name: str) -> str:
        return str(self._storage._normalize_name(clean_name(self._prefix + name)))

    def _object(self, name: str) -> Any:
        return self._storage.bucket.Object(self._key(name))


def _is_key_of_dump(name: str) -> bool:
    try:
        return DumpKey.parse(name).is_standard
    except InvalidName:
        return False


@contextmanager
def _told_of_failed_parts(storage: S3Storage, content: Content) -> Iterator[None]:
    """An upload that has failed still waits for its reader, and reads on to the end of the dump.

    So the reader gives up as soon as a part is refused for good, or the upload itself.
    """

    def refused(http_response: Any, **_rest: Any) -> None:
        if http_response.status_code >= HTTP_ERROR:
            content.abandon()

    def failed(**_rest: Any) -> None:
        content.abandon()

    events = storage.connection.meta.client.meta.events
    handlers = {
        f"{event}.s3.{operation}": handler
        for operation in ("CreateMultipartUpload", "UploadPart")
        for event, handler in (("after-call", refused), ("after-call-error", failed))
    }
    for event, handler in handlers.items():
        events.register(event, handler)
    try:
        yield
    finally:
        for event, handler in handlers.items():
            events.unregister(event, handler)


def transfer_config(expected_size: int) -> TransferConfig:
    """Parts that are as small as ``expected_size`` (bytes) allows: a worker holds four of them."""
    # A tenth more than the database: what does not compress grows by its frames and contents.
    needed = math.ceil(expected_size * 1.1 / (MOST_PARTS * 0.9))
    part_size = max(SMALLEST_PART, math.ceil(needed / 1024**2) * 1024**2)
    config = TransferConfig(multipart_threshold=part_size, multipart_chunksize=part_size)
    config.max_in_memory_upload_chunks = PARTS_IN_MEMORY
    return config


class _ResumingReader:
    """The body of an object, taken up again where its connection broke.

    ``S3Storage.open`` would load the whole object before its first byte.
    """

    def __init__(self, stored: Any, name: str) -> None:
        self._object = stored
        self._name = name
        self._position = 0
        self._breaks = Breaks(name)
        answer = self._get()
        self._size = int(answer["ContentLength"])
        self._etag = answer["ETag"]
        self._body: Any = answer["Body"]

    def read(self, size: int, /) -> bytes:
        with s3_errors(f'"{self._name}" cannot be read'):
            while True:
                try:
                    if self._body is None:
                        self._body = self._rest()
                    data: bytes = self._body.read(min(size, self._size - self._position))
                    if data or self._position == self._size:
                        self._position += len(data)
                        return data
                    problem: Exception = StorageError("the connection ended early")
                except (BotoCoreError, OSError) as error:
                    problem = error
                self.close()
                self._breaks.another(self._position, problem)

    def _rest(self) -> Any:
        return self._get(Range=f"bytes={self._position}-", IfMatch=self._etag)["Body"]

    def _get(self, **conditions: str) -> Any:
        try:
            return self._object.get(**conditions)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code == "NoSuchKey":
                raise DumpNotFound(f'there is no dump "{self._name}"') from error
            if code == "PreconditionFailed":
                raise replaced_meanwhile(self._name) from error
            raise

    def close(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def _configured(config: Mapping[str, Any]) -> dict[str, Any]:
    known = {"access_key", "secret_key", *S3Storage(bucket_name="any").get_default_settings()}
    options = {ENVIRONMENT_NAMES.get(name, name): value for name, value in config.items()}
    if unknown := set(options) - known:
        raise ConfigurationError(
            f"PGCLONE_S3_CONFIG does not know {', '.join(sorted(unknown))}",
            hint=f"It takes {', '.join(sorted(ENVIRONMENT_NAMES))}, and the options of S3Storage.",
        )
    return options
