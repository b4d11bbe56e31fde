"""Names: dump keys, local keys, names of databases."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from .errors import InvalidName

MAX_NAME_BYTES = 63
"""NAMEDATALEN - 1: the server cuts longer identifiers without an error."""

MAX_KEY_BYTES = 1024
"""The longest object key of S3."""

TIMESTAMP_FORMAT = "%Y-%m-%d-%H-%M-%S-%f"

_TIMESTAMP = r"\d{4}-\d{2}-\d{2}-\d{2}-\d{2}-\d{2}-\d{1,6}"
_CURRENT_FILE = re.compile(rf"(?P<timestamp>{_TIMESTAMP})\.dump")
_VERSION_1_FILE = re.compile(
    rf"(?P<timestamp>{_TIMESTAMP}|{_TIMESTAMP.replace('-', '_')})\.(?P<config>[^/]+)\.dump"
)
"""The releases of 1.x wrote underscores into the time."""
_PERCENT_ENCODED = re.compile(r"%(2e|2f|5c|00)", re.IGNORECASE)
_UNSAFE_IN_NEW_PART = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, order=True)
class DumpKey:
    """Where one dump lies, relative to its storage location.

    ``instance``, ``database``, ``config`` and ``taken_at`` (UTC) are ``None`` where the key does
    not tell: keys of django-pgclone 1.x name no instance, keys given by hand may name nothing.
    """

    text: str
    instance: str | None = None
    database: str | None = None
    config: str | None = None
    taken_at: datetime | None = None

    @classmethod
    def new(cls, *, instance: str, database: str, config: str, taken_at: datetime) -> DumpKey:
        """The key of a dump made now, in the characters that django-pgclone lists too."""
        parts = [sanitized(part) for part in (instance, database, config)]
        for part, meaning in zip(parts, ("instance", "database", "config"), strict=True):
            if not part:
                raise InvalidName(f"the {meaning} of a dump key cannot be empty")
        timestamp = taken_at.astimezone(UTC).strftime(TIMESTAMP_FORMAT)
        return cls.parse("/".join([*parts, f"{timestamp}.dump"]))

    @classmethod
    def parse(cls, text: str) -> DumpKey:
        """Reads any key that stays inside its storage location; :class:`InvalidName` otherwise."""
        check_relative_path(text)
        parts = text.split("/")
        if len(parts) == 4 and (match := _CURRENT_FILE.fullmatch(parts[3])):
            instance, database, config = parts[:3]
        elif len(parts) == 2 and (match := _VERSION_1_FILE.fullmatch(parts[1])):
            instance, database, config = None, parts[0], match["config"]
        else:
            return cls(text)
        if (taken_at := _read_timestamp(match["timestamp"])) is None:
            return cls(text)
        return cls(text, instance, database, config, taken_at)

    @property
    def is_standard(self) -> bool:
        """Whether the key has the form of django-pgclone 2+ or 1.x."""
        return self.taken_at is not None

    @property
    def manifest_name(self) -> str:
        return f"{self.text}.json"

    def __str__(self) -> str:
        return self.text


def sanitized(part: str) -> str:
    """An instance, alias or configuration as it stands in a dump key."""
    return _UNSAFE_IN_NEW_PART.sub("_", part)


def check_relative_path(text: str) -> None:
    """:class:`InvalidName` for what could name anything outside a storage location."""
    if not text:
        raise InvalidName("a dump key cannot be empty")
    if len(text.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidName(f"a dump key has at most {MAX_KEY_BYTES} bytes")
    unsafe = (
        any(part in {"", ".", ".."} for part in text.split("/"))
        or "\\" in text
        or any(not char.isprintable() for char in text)
        or _PERCENT_ENCODED.search(text)
        or text[1:2] == ":"  # to Windows a drive, whatever stands before it
    )
    if unsafe:
        raise InvalidName(
            f"{text!r} is no dump key",
            hint="A dump key looks like instance/database/config/timestamp.dump.",
        )


def _read_timestamp(text: str) -> datetime | None:
    try:
        return datetime.strptime(text.replace("_", "-"), TIMESTAMP_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


RESERVED_LOCAL_NAMES = ("pre", "post", "undo", "held")
UNFINISHED_ROLES = ("temp", "swap")
"""What a restore calls databases that are gone when it is done."""

_VERSION_1_LOCAL_NAMES = {"previous": "pre", "current": "post"}


@dataclass(frozen=True)
class LocalKey:
    """A database on the same server: ``:pre``, ``:post``, ``:undo``, ``:held`` or
    ``:<database name>``."""

    name: str

    @classmethod
    def parse(cls, text: str) -> LocalKey:
        """The key that is written as ``text``, also in the words of 1.x; :class:`InvalidName` when
        it has no colon, or no database can be called so."""
        if not text.startswith(":"):
            raise InvalidName(f"{text!r} is no local key", hint="A local key looks like :name.")
        name = text[1:]
        check_database_name(name)
        return cls(_VERSION_1_LOCAL_NAMES.get(name, name))

    @property
    def is_reserved(self) -> bool:
        return self.name in RESERVED_LOCAL_NAMES

    def database_name(self, live: str) -> str:
        """The name of the database that the key means beside the live database ``live``."""
        return derived_name(live, self.name) if self.is_reserved else self.name

    @classmethod
    def of_database(cls, name: str, live: str) -> LocalKey:
        """The shortest key for the database ``name`` beside ``live``."""
        role = role_of(name, live)
        return cls(role if role in RESERVED_LOCAL_NAMES else name)

    def __str__(self) -> str:
        return f":{self.name}"


def check_database_name(name: str) -> None:
    """:class:`InvalidName` for what the server would refuse, or would silently cut."""
    if not name:
        raise InvalidName("a database name cannot be empty")
    if "\0" in name:
        raise InvalidName("a database name cannot hold a NUL character")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        # A command line holds bytes; those that are no text arrive as lone surrogates.
        raise InvalidName(f"a database name has to be valid text: {name!r}") from error
    if size > MAX_NAME_BYTES:
        raise InvalidName(f"a database name has at most {MAX_NAME_BYTES} bytes: {name!r}")


def derived_name(name: str, role: str) -> str:
    """``<name>__<role>``, shortened with a hash of ``name`` where it would pass 63 bytes.

    The server cuts long identifiers silently, so that ``DROP DATABASE "<63 bytes>__temp"`` would
    drop the live database.
    """
    check_database_name(name)
    suffix = f"__{role}"
    plain = name + suffix
    if len(plain.encode()) <= MAX_NAME_BYTES:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    room = MAX_NAME_BYTES - len(suffix) - len(digest) - 1
    head = name.encode()[:room].decode(errors="ignore")
    return f"{head}_{digest}{suffix}"


def role_of(name: str, live: str) -> str | None:
    """What a restore of ``live`` makes under this name: ``temp``, ``swap``, ``pre``, ``post``,
    ``undo``, ``held``, or nothing."""
    roles = (*RESERVED_LOCAL_NAMES, *UNFINISHED_ROLES)
    return next((role for role in roles if name == derived_name(live, role)), None)


def readable(text: str) -> str:
    """For people: what was in another encoding than UTF-8 is replaced by a sign."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def quote_identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier, which is also a literal pattern for pg_dump."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, order=True)
class TableName:
    """A table, by the names the catalog holds."""

    schema: str
    name: str

    @property
    def quoted(self) -> str:
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"
