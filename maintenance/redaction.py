"""A document without what tells who somebody was. Pure; documents are MongoDB's extended JSON, as a store gives them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from companion.core.pseudonyms import Pseudonyms, is_id, is_pseudonym

Document = dict[str, Any]

_OID: Final = "$oid"


class _Nothing:
    """Stands for what is to be taken away."""


_NOTHING: Final = _Nothing()

Change = Callable[[Any], Any]


def document_of(line: bytes) -> Document:
    """Return the document of a line, anew every time."""
    document: Document = json.loads(line)
    return document


def line_of(document: Mapping[str, Any]) -> bytes:
    """Return the line of a document."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def names_in(document: Mapping[str, Any], paths: Sequence[str]) -> Iterator[str]:
    """Yield the texts and ids that stand at these paths, also in lists, but no pseudonyms; ids in lower case."""
    found: list[Any] = []
    for path in paths:
        _reach(document, path.split("."), found.append)
    for value in found:
        for one in value if isinstance(value, list) else [value]:
            text = _text_of(one)
            if text and not is_pseudonym(text):
                yield text


class Redaction:
    """Takes away what is personal, under one key."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms

    def replace(self, document: Document, paths: Sequence[str]) -> Mapping[str, str]:
        """Put pseudonyms in place of whatever stands at these paths; return what was replaced by what."""
        replaced: dict[str, str] = {}

        def pseudonym(value: Any) -> Any:  # noqa: ANN401 - any JSON
            text = _text_of(value)
            if text is not None:
                new = self._pseudonyms.of(text)
                if new != text:
                    replaced[text] = new
                return {_OID: new} if isinstance(value, dict) else new
            if isinstance(value, list):
                return [new for new in map(pseudonym, value) if new is not _NOTHING]
            if isinstance(value, dict) and not _is_scalar(value):
                return {key: new for key, one in value.items() if (new := pseudonym(one)) is not _NOTHING}
            return None if value is None else _NOTHING

        for path in paths:
            _change(document, path.split("."), pseudonym)
        return replaced

    def pseudonyms_of(self, names: Iterable[str]) -> Mapping[str, str]:
        """Return the pseudonym of each of these names."""
        return {name: self._pseudonyms.of(name) for name in names}

    def rename(self, document: Document, paths: Sequence[str], known: Mapping[str, str]) -> None:
        """Put in place of these names what belongs there, where they stand alone or between slashes."""

        def renamed(value: Any) -> Any:  # noqa: ANN401 - any JSON
            if isinstance(value, list):
                return [renamed(one) for one in value]
            text = _text_of(value)
            if text is None:
                return value
            if isinstance(value, dict):
                return {_OID: known.get(text, text)}
            whole = known.get(text)
            return "/".join(known.get(_plain(one), one) for one in value.split("/")) if whole is None else whole

        for path in paths:
            _change(document, path.split("."), renamed)

    def remove(self, document: Document, paths: Sequence[str]) -> None:
        """Take away whatever stands at these paths."""
        for path in paths:
            _change(document, path.split("."), lambda _: _NOTHING)


def _reach(value: Any, path: Sequence[str], told: Callable[[Any], None]) -> None:  # noqa: ANN401 - any JSON
    if isinstance(value, list):
        for one in value:
            _reach(one, path, told)
    elif isinstance(value, dict) and path[0] in value:
        if len(path) == 1:
            told(value[path[0]])
        else:
            _reach(value[path[0]], path[1:], told)


def _change(value: Any, path: Sequence[str], change: Change) -> None:  # noqa: ANN401 - any JSON
    """Change in place what stands at a path."""
    if isinstance(value, list):
        for one in value:
            _change(one, path, change)
    elif isinstance(value, dict) and path[0] in value:
        if len(path) > 1:
            _change(value[path[0]], path[1:], change)
        elif (new := change(value[path[0]])) is _NOTHING:
            del value[path[0]]
        else:
            value[path[0]] = new


def _text_of(value: object) -> str | None:
    """Return a text or an id as text; None for anything else."""
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, dict) and set(value) == {_OID} and isinstance(value[_OID], str):
        return _plain(value[_OID])
    return None


def _plain(text: str) -> str:
    return text.lower() if is_id(text) else text


def _is_scalar(value: Mapping[str, Any]) -> bool:
    return any(key.startswith("$") for key in value)
