"""Files of accounts: CSV or JSON, checked row by row before anything is stored."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.model import Account, Kind
from companion.core.password_hashes import affordable, parse_password_hash

_FIELDS: Final = (
    "username",
    "user_id",
    "password_hash",
    "kind",
    "principal",
    "disabled",
    "expires_at",
    "groups",
    "tenant",
)
# EMQX's export of its built-in database has these too: the hashes hold their salts, and superusers are not taken over.
_IGNORED: Final = ("salt", "is_superuser")
_BOOLEANS: Final = {"": False, "false": False, "0": False, "true": True, "1": True}
_USERNAME_BYTES: Final = 65_535


def read_accounts(file: Path, max_cost: int) -> list[Account]:
    """Return the accounts of a file; raises `Invalid` that names the row and the field of the first mistake."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise Invalid("file", str(file), f"a UTF-8 file that can be read ({problem})") from None
    accounts: dict[str, Account] = {}
    for where, row in _rows(text, str(file)):
        account = _account(where, row, max_cost)
        if account.username in accounts:
            raise Invalid(f"{where} username", account.username, "each user name once")
        accounts[account.username] = account
    if not accounts:
        raise Invalid("file", str(file), "at least one account")
    return list(accounts.values())


def check_username(name: str, field: str) -> None:
    """Raise `Invalid` for a name that MQTT cannot carry (MQTT 5 §1.5.4) or that could not be shown."""
    if not name or not name.isprintable() or len(name.encode()) > _USERNAME_BYTES:
        raise Invalid(field, name, f"1 to {_USERNAME_BYTES} bytes of printable UTF-8")


def parse_expiry(text: str, field: str) -> int | None:
    """Return Unix seconds of an ISO 8601 time with a zone, or of a number; None for an empty text."""
    if not text:
        return None
    if text.isdecimal() and text.isascii():
        seconds = int(text)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise Invalid(field, text, "a time with a zone, such as 2027-01-31T12:00:00Z, or Unix seconds")
        seconds = int(moment.timestamp())
    try:
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise Invalid(field, text, "a time before the year 10000; Unix time is in seconds") from None
    return seconds


def _rows(text: str, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if text.lstrip()[:1] == "[":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError):
            raise Invalid("file", name, "valid JSON") from None
        yield from ((f"row {index}:", _object(row, index)) for index, row in enumerate(rows, 1))
    elif text.lstrip()[:1] == "{":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    raise Invalid(f"line {number}", "***", "one JSON object a line") from None
                yield f"line {number}:", _object(row, number)
    else:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise Invalid(f"line {reader.line_num}", "***", "as many columns as the header has")
                yield f"line {reader.line_num}:", row
        except csv.Error as problem:
            raise Invalid(f"line {reader.line_num}", "***", f"valid CSV ({problem})") from None


def _object(row: object, number: int) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise Invalid(f"row {number}", "***", "a JSON object")
    return row


def _account(where: str, row: Mapping[str, Any], max_cost: int) -> Account:
    for name in row:
        if name not in _FIELDS and name not in _IGNORED:
            raise Invalid(f"{where} {name}", "this column", f"the columns are {', '.join(_FIELDS)}")
    text = {name: _text(where, name, row.get(name)) for name in _FIELDS if name != "groups"}
    username = text["username"] or text["user_id"]
    check_username(username, f"{where} username")
    principal = text["principal"] or username
    check_username(principal, f"{where} principal")
    password_hash = parse_password_hash(text["password_hash"])
    if password_hash is None or not affordable(password_hash, max_cost):
        raise Invalid(
            f"{where} password_hash",
            "***",
            f"a hash by bcrypt ($2b$...) or PBKDF2 (PBKDF2$..., $7$...) of a cost up to password_max_cost ({max_cost})",
        )
    kind = text["kind"] or Kind.DEVICE.value
    if kind not in [one.value for one in Kind]:
        raise Invalid(f"{where} kind", kind, f"one of {', '.join(Kind)}")
    if text["disabled"].lower() not in _BOOLEANS:
        raise Invalid(f"{where} disabled", text["disabled"], "true or false")
    if text["tenant"]:
        check_username(text["tenant"], f"{where} tenant")
    return Account(
        username,
        Kind(kind),
        principal,
        text["password_hash"],
        disabled=_BOOLEANS[text["disabled"].lower()],
        expires_at=parse_expiry(text["expires_at"], f"{where} expires_at"),
        groups=_groups(where, row.get("groups")),
        tenant=text["tenant"],
    )


def _groups(where: str, value: object) -> tuple[str, ...]:
    """Return a list of names, or a text of names with `;` between, as CSV has it."""
    listed = [part.strip() for part in value.split(";") if part.strip()] if isinstance(value, str) else value or []
    if not isinstance(listed, list):
        raise Invalid(f"{where} groups", "***", "a list of names, or a text with ; between them")
    for name in listed:
        check_username(name if isinstance(name, str) else "", f"{where} groups")
    return tuple(dict.fromkeys(listed))


def _text(where: str, name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | int | str):
        return str(value).strip() if not isinstance(value, bool) else str(value).lower()
    raise Invalid(f"{where} {name}", "***", "a string, a whole number, a boolean or null")
