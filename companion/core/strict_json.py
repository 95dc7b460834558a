"""JSON as strictly as a door needs it: what two readers could understand differently is refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, Final, NoReturn

from companion.core.errors import CompanionError

MAX_DEPTH: Final = 64
_INTEGERS: Final = range(-(2**63), 2**63)


class NotJson(CompanionError):
    """The text is not JSON, or not unambiguous JSON. The message repeats nothing of what was sent."""


class RepeatedKey(NotJson):
    """An object has a key twice; `key` is its name."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__("a key is there twice")


def decode(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a UTF-8 JSON text.

    Raises `NotJson` for anything else, and for what JSON leaves open: repeated keys, NaN and infinity (also as `1e999`), integers
    beyond 64 bits, lone surrogates, more than 64 levels.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as problem:
        raise NotJson(f"the body is not UTF-8 (byte {problem.start})") from None
    except RecursionError:
        raise NotJson(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as problem:
        raise NotJson(
            f"the body is not valid JSON ({problem.msg}, line {problem.lineno}, column {problem.colno})"
        ) from None
    except ValueError:
        raise NotJson("the body holds a number that is too long") from None
    _check(value, 0)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise RepeatedKey(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not JSON")


def _check(value: object, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotJson(f"the body is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name)
            _check(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson("the body holds a number that is too large")
    elif isinstance(value, int) and value not in _INTEGERS:
        raise NotJson("the body holds an integer beyond 64 bits")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NotJson("the body holds a lone surrogate") from None
