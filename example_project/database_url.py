"""Reads the DATABASE_URL of the environment, strictly: a misread address is a wrong database."""

from typing import Any
from urllib.parse import unquote, urlsplit

# What libpq takes and a site would set. "host" is here because a unix socket's folder can only
# be written as a parameter.
PARAMETERS = frozenset(
    {
        "application_name",
        "connect_timeout",
        "host",
        "sslcert",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "target_session_attrs",
    }
)


class DatabaseURLError(ValueError):
    """Says what is wrong with a DATABASE_URL without showing it: it may hold a password."""


def parse(url: str) -> dict[str, Any]:
    """`postgres://user:password@host:port/name?sslmode=require` as an entry of DATABASES."""
    # urlsplit drops some of these silently, which would change the address.
    if any(character.isspace() or not character.isprintable() for character in url):
        raise DatabaseURLError("DATABASE_URL holds a space or a control character; percent-encode")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise DatabaseURLError("DATABASE_URL is malformed") from None
    if parts.scheme not in {"postgres", "postgresql"}:
        raise DatabaseURLError("DATABASE_URL must start with postgres:// or postgresql://")
    if parts.fragment:
        raise DatabaseURLError('DATABASE_URL holds a "#"; write it as %23')

    options = _options(parts.query)
    if "@" in parts.path:
        # Where a "/" in the password was not encoded, the rest of the address ends up here.
        raise DatabaseURLError('DATABASE_URL holds a "@" after a "/"; write them as %40 and %2F')

    credentials, _, address = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    host, port = _host_and_port(address)
    socket_folder = options.pop("host", "")
    if host and socket_folder:
        raise DatabaseURLError("DATABASE_URL names two hosts")
    name = _decode(parts.path.removeprefix("/"))
    if not name:
        raise DatabaseURLError("DATABASE_URL does not name a database")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": _decode(user),
        "PASSWORD": _decode(password),
        "HOST": host or socket_folder,
        "PORT": port,
        "OPTIONS": options,
    }


def _options(query: str) -> dict[str, str]:
    # Not parse_qsl: it turns "+" into a space, which a connection address does not.
    options: dict[str, str] = {}
    for parameter in query.split("&") if query else []:
        key, _, value = parameter.partition("=")
        if key not in PARAMETERS:
            known = ", ".join(sorted(PARAMETERS))
            raise DatabaseURLError(
                f"DATABASE_URL has an unknown parameter; these are known: {known}"
            )
        if key in options:
            raise DatabaseURLError(f"DATABASE_URL gives {key} twice")
        options[key] = _decode(value)
    return options


def _host_and_port(address: str) -> tuple[str, str]:
    if address.startswith("["):
        host, closed, rest = address[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise DatabaseURLError("DATABASE_URL has a malformed IPv6 address")
        port = rest.removeprefix(":")
    else:
        host, _, port = address.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise DatabaseURLError("DATABASE_URL has a port that is not a number from 1 to 65535")
    return _decode(host), port


def _decode(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise DatabaseURLError("DATABASE_URL is not UTF-8 once percent-decoded") from None
