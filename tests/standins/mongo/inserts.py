"""Large inserts in small parts: the engine does one thing at a time, and others must get their turn, as they do with MongoDB."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import bson

_MOST: Final = 50
_FLAGS: Final = 4
_HEADER: Final = 16


def parts_of(command: dict[str, Any], payload: bytes) -> Sequence[tuple[int, bytes]]:
    """Return the payloads of inserts that together are this one, each with the number of documents before it."""
    whole = [(0, payload)]
    if "insert" not in command or "autocommit" in command or struct.unpack_from("<I", payload)[0]:
        return whole
    head = _FLAGS + 1 + struct.unpack_from("<i", payload, _FLAGS + 1)[0]
    if payload[head : head + 1] != b"\x01" or head + 1 + struct.unpack_from("<i", payload, head + 1)[0] != len(payload):
        return whole
    at = payload.index(b"\0", head + 5) + 1
    name, documents = payload[head + 5 : at], []
    while at < len(payload):
        end = at + struct.unpack_from("<i", payload, at)[0]
        documents.append(payload[at:end])
        at = end
    found = []
    for start in range(0, len(documents), _MOST):
        body = name + b"".join(documents[start : start + _MOST])
        found.append((start, payload[:head] + b"\x01" + struct.pack("<i", len(body) + 4) + body))
    return found


def joined(answers: Sequence[tuple[int, bytes]]) -> dict[str, Any]:
    """Return the answer to all, from the answers to the parts."""
    decoded = [(start, _body(answer)) for start, answer in answers]
    whole = decoded[-1][1] | {"n": sum(one.get("n", 0) for _, one in decoded)}
    errors = [
        error | {"index": error["index"] + start} for start, one in decoded for error in one.get("writeErrors", ())
    ]
    return whole | ({"writeErrors": errors} if errors else {})


def stops(command: dict[str, Any], answer: bytes) -> bool:
    """Tell whether the parts behind this one are not to be inserted."""
    body = _body(answer)
    return not body.get("ok") or ("writeErrors" in body and bool(command.get("ordered", True)))


def _body(answer: bytes) -> dict[str, Any]:
    return dict(bson.decode(answer[_HEADER + _FLAGS + 1 :]))
