"""Topic templates of changes: who is told about a change of an entity, and where. Pure.

A template such as `{client}/{owner}/{db}/{id}/{collection}` is rendered once for every combination of the values that its
placeholders have in the entity; `share`, `client` and `group` have as many as the entity lists. Both states are routed, `after`
and `before`, so that a share or an owner that the change removed is told about it too; they are never mixed, so that no topic
arises of a client and an owner that never met.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, Final

from companion.core.errors import Invalid
from companion.core.model import Change, Document
from companion.core.templates import Template
from companion.core.topics import check_topic

PLACEHOLDERS: Final = frozenset({"owner", "share", "client", "group", "identity", "db", "collection", "id"})

DEFAULT_TOPICS: Final = tuple(
    f"{audience}/{{db}}/{{id}}/{{collection}}"
    for audience in (
        "{owner}",
        "{share}",
        "{client}",
        "{client}/{owner}",
        "{client}/{share}",
        "{client}/{group}",
        "{client}/{owner}/{identity}",
        "{client}/{share}/{identity}",
        "{client}/{group}/{identity}",
    )
)
"""The topics of the platform."""

_LISTS: Final = {"share": "shares", "client": "clients", "group": "groups"}
_SINGLES: Final = ("owner", "identity")


def parse_topic_template(source: str) -> Template:
    """Parse a template; raises `Invalid` for unknown placeholders and for text that is no topic name."""
    template = Template.parse(source, opener="{", allowed=PLACEHOLDERS, field="publisher_topics")
    try:
        check_topic("x".join(template.literals))
    except Invalid as problem:
        raise Invalid("publisher_topics", source, problem.allowed) from None
    return template


class Router:
    """The configured templates, ready to route."""

    def __init__(self, templates: Sequence[str], max_topics: int) -> None:
        parsed = tuple(parse_topic_template(source) for source in templates)
        self._templates = tuple((template, tuple(dict.fromkeys(template.names))) for template in parsed)
        self._max_topics = max_topics

    def topics(self, change: Change) -> tuple[str, ...]:
        """Return the topics of a change, each once, in the order of the templates; those of `after` before those of `before`.

        Raises `Invalid` when there would be more than the configured number, and for a topic that is longer than MQTT allows.
        """
        topics: dict[str, None] = {}
        for document in [one for one in (change.after, change.before) if one is not None] or [{}]:
            values = audiences(change, document)
            # Most templates have no value for most entities: those are passed over at once.
            usable = [(template, names) for template, names in self._templates if all(values[name] for name in names)]
            combinations = sum(prod(len(values[name]) for name in names) for _, names in usable)
            if combinations > self._max_topics:
                allowed = f"owner, shares, clients and groups that make at most {self._max_topics}"
                raise Invalid("topics", f"{combinations} topics", allowed)
            topics |= dict.fromkeys(topic for template, names in usable for topic in _rendered(template, names, values))
        for topic in topics:
            check_topic(topic)
        return tuple(topics)


def audiences(change: Change, document: Document) -> Mapping[str, tuple[str, ...]]:
    """Return the values that every placeholder has in this state of the entity."""
    values: dict[str, tuple[str, ...]] = {"db": (change.db,), "collection": (change.collection,), "id": (change.id,)}
    for name in _SINGLES:
        values[name] = _strings([document.get(name)])
    for name, field in _LISTS.items():
        values[name] = _strings(document.get(field) or ())
    return values


def _strings(items: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for item in items if isinstance(item, str) and item))


def _rendered(template: Template, names: Sequence[str], values: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    for combination in product(*(values[name] for name in names)):
        topic = template.render(dict(zip(names, combination, strict=True)))
        if topic is not None:
            yield topic
