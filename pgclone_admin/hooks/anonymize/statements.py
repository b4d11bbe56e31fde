"""Rules as SQL expressions over the old row.

Made-up values hang on a digest of seed, table and primary key. Each field takes its bits from
another place of it. No expression of ours has a subquery: PostgreSQL writes a table anew only
without them. Nor do they name the table, as its parts are written with them too. Only functions
that every server has are used.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg2 import sql

from . import fakes
from .catalog import Relation
from .mapping import FieldChange, TableChange
from .rules import HEX_DIGITS

DIGEST_DIGITS = 64

_RANDOM = "replace(gen_random_uuid()::text, '-', '')"


@dataclass(frozen=True)
class _Row:
    """Expressions that name a row: its primary key as text, and the hexadecimal digest of it."""

    key: sql.Composable
    digest: sql.Composable


def values(change: TableChange, relation: Relation, *, seed: str) -> dict[str, sql.Composed]:
    """What each column becomes."""
    row = _row(change, seed)
    return {each.column: _typed(each, relation, row, seed) for each in change.changed}


def update(relation: Relation, new: Mapping[str, sql.Composed]) -> sql.Composed:
    """The statement that changes all rows of the table where they lie."""
    parts = [sql.SQL("{} = {}").format(sql.Identifier(name), new[name]) for name in new]
    return sql.SQL("UPDATE {} SET {}").format(relation.identifier, sql.SQL(", ").join(parts))


def _row(change: TableChange, seed: str) -> _Row:
    names = sql.SQL(", ").join(sql.Identifier(name) for name in change.key)
    key = sql.SQL("{}::text" if len(change.key) == 1 else "ROW({})::text").format(names)
    secret = hashlib.sha256(f"{seed}\0{change.label}".encode()).hexdigest()
    return _Row(key, _sha256(sql.SQL("{} || {}").format(sql.Literal(secret), key)))


def _sha256(text: sql.Composable) -> sql.Composed:
    return sql.SQL("encode(sha256(convert_to({}, 'UTF8')), 'hex')").format(text)


def _typed(change: FieldChange, relation: Relation, row: _Row, seed: str) -> sql.Composed:
    """The new value, of the type of the column, but without its length: nothing is cut silently."""
    value = _value(change, row, seed)
    return sql.SQL("CAST({} AS {})").format(value, sql.SQL(relation.types[change.column]))


def _value(change: FieldChange, row: _Row, seed: str) -> sql.Composable:
    rule = change.rule
    old = sql.Identifier(change.column)
    if rule.kind == "null":
        return sql.SQL("NULL")
    if rule.kind == "constant":
        return sql.Literal(change.constant)
    if rule.kind == "sql":
        # On lines of its own: the expression may end in a comment.
        return sql.SQL(f"(\n{rule.value}\n)")
    if rule.kind == "password":
        return _unusable() if rule.value is None else _known(rule.value, row)
    if rule.kind == "hash":
        key = hashlib.sha256(f"{seed}\0hash".encode()).hexdigest()
        made: sql.Composable = _sha256(sql.SQL("{} || {}::text").format(sql.Literal(key), old))
    else:
        made = _MADE_UP[rule.kind](change, row, old)
    if change.max_length is not None:
        made = sql.SQL("left({}, {})").format(made, sql.Literal(change.max_length))
    # What was not given stays so: who has no phone gets none.
    return sql.SQL("CASE WHEN {old}::text <> '' THEN {made} ELSE {old}::text END").format(
        old=old, made=made
    )


# -- passwords ------------------------------------------------------------------------------------


def _unusable() -> sql.Composable:
    """As Django marks it: an exclamation mark and 40 random characters."""
    return sql.SQL(f"'!' || {_RANDOM} || left(md5(random()::text), 8)")


def _known(password: str, row: _Row) -> sql.Composable:
    """PBKDF2 of one iteration, with a salt for each row: HMAC-SHA256 of salt and block number.

    One iteration can be computed for a million rows. It protects nothing, but neither do more of
    them protect a password that stands in the settings. Django counts the iterations by what the
    hash says, and makes a new one when somebody logs in. The salt stands in it twice, so that it is
    computed from the row and what is random for this statement alone.
    """
    key = password.encode()
    if len(key) > hashlib.sha256().block_size:
        key = hashlib.sha256(key).digest()
    key = key.ljust(hashlib.sha256().block_size, b"\0")
    inner, outer = (sql.Literal(bytes(byte ^ pad for byte in key).hex()) for pad in (0x36, 0x5C))
    return sql.SQL(
        "'pbkdf2_sha256$1$' || {salt} || '$' || encode(sha256(decode({outer}, 'hex') ||"
        " sha256(decode({inner}, 'hex') || convert_to({salt}, 'UTF8') ||"
        " decode('00000001', 'hex'))), 'base64')"
    ).format(
        inner=inner,
        outer=outer,
        salt=sql.SQL("md5({} || {})").format(sql.Literal(secrets.token_hex()), row.key),
    )


# -- made-up values -------------------------------------------------------------------------------


def _bits(change: FieldChange, row: _Row, digits: int, *, salt: str = "") -> sql.Composable:
    """Hexadecimal digits of the row's digest, from a place that hangs on the field."""
    spread = hashlib.sha256(f"{change.name}\0{salt}".encode()).digest()[0]
    place = 1 + spread % (DIGEST_DIGITS - digits + 1)
    return sql.SQL("substr({}, {}, {})").format(row.digest, sql.Literal(place), sql.Literal(digits))


def _pick(
    change: FieldChange, row: _Row, choices: Sequence[str], *, salt: str = ""
) -> sql.Composable:
    return sql.SQL("(({})::text[])[1 + ('x' || {})::bit(24)::integer % {}]").format(
        sql.Literal(list(choices)), _bits(change, row, 6, salt=salt), sql.Literal(len(choices))
    )


def _first_name(change: FieldChange, row: _Row, _old: sql.Composable) -> sql.Composable:
    return _pick(change, row, fakes.FIRST_NAMES)


def _last_name(change: FieldChange, row: _Row, _old: sql.Composable) -> sql.Composable:
    return _pick(change, row, fakes.LAST_NAMES)


def _name(change: FieldChange, row: _Row, _old: sql.Composable) -> sql.Composable:
    first = _pick(change, row, fakes.FIRST_NAMES, salt="first")
    return sql.SQL("{} || ' ' || {}").format(
        first, _pick(change, row, fakes.LAST_NAMES, salt="last")
    )


def _email(change: FieldChange, row: _Row, _old: sql.Composable) -> sql.Composable:
    return sql.SQL("{} || {}").format(
        _bits(change, row, HEX_DIGITS), sql.Literal(f"@{fakes.DOMAIN}")
    )


def _username(change: FieldChange, row: _Row, _old: sql.Composable) -> sql.Composable:
    digits = _bits(change, row, HEX_DIGITS)
    prefix = "user-"
    if change.max_length is not None and change.max_length < len(prefix) + HEX_DIGITS:
        return digits
    return sql.SQL("{} || {}").format(sql.Literal(prefix), digits)


def _phone(change: FieldChange, row: _Row, _old: sql.Composable) -> sql.Composable:
    last = sql.SQL("lpad((('x' || {})::bit(24)::integer % 100)::text, 2, '0')").format(
        _bits(change, row, 6, salt="number")
    )
    return sql.SQL("'+1' || {} || '55501' || {}").format(_pick(change, row, fakes.AREA_CODES), last)


def _text(change: FieldChange, row: _Row, old: sql.Composable) -> sql.Composable:
    length = len(fakes.TEXTS[0])
    return sql.SQL(
        "left(repeat({text}, 1 + length({old}::text) / {of}), length({old}::text))"
    ).format(text=_pick(change, row, fakes.TEXTS), old=old, of=sql.Literal(length))


_MADE_UP = {
    "email": _email,
    "first_name": _first_name,
    "last_name": _last_name,
    "name": _name,
    "phone": _phone,
    "text": _text,
    "username": _username,
}
