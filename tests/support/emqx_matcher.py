"""How EMQX 5.8 judges with the `acl` of a connect answer: a model of its own code, for tests.

Written from what a running 5.8.9 answered and from the source of its rules, independently of our topics and policy; it does not
know what our rules mean. The parts:

* a list is read rule by rule, and one bad rule refuses the login;
* `$share/{group}/`, `$queue/`, `$exclusive/` and `$delayed/{seconds}/` are taken off before anything is compared, the last one as
  often as it is there;
* a wanted filter is split into words, and compared as if it were a name: `#` and `+` in it are words like any other;
* the first rule that matches decides; without one the question goes on to the authorization sources.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Words = list[str]

_PLACEHOLDER = re.compile(r"\$\{[.]?([a-zA-Z0-9._]*)\}")
_KNOWN_PLACEHOLDERS = ("username", "clientid", "cert_common_name", "zone")
_ACTIONS = {"pub": "publish", "publish": "publish", "sub": "subscribe", "subscribe": "subscribe", "all": "all"}
_QOS: dict[object, int] = {"0": 0, "1": 1, "2": 2, 0: 0, 1: 1, 2: 2}
_RETAIN: dict[object, bool | None] = {
    "0": False, "1": True, 0: False, 1: True, "true": True, "false": False, "all": None, None: None,
}  # fmt: skip


class LoginRefused(Exception):
    """The broker could not read the list, and refuses the login (0x86), or its provider crashes (0x87)."""


@dataclass(frozen=True)
class Topic:
    """What a rule compares with: a filter, or with `literal` one word for word."""

    text: str
    literal: bool


@dataclass(frozen=True)
class Line:
    """One rule of a list. A `retain` of None means either."""

    permission: str
    action: str
    topics: tuple[Topic, ...]
    qos: tuple[int, ...]
    retain: bool | None


def read(acl: bytes) -> list[Line]:
    """Return the rules of a list as it stands in an answer. Raises `LoginRefused`."""
    rules = json.loads(acl)
    if not isinstance(rules, list):
        raise LoginRefused("a list is expected")
    return [_line(rule) for rule in rules]


def _line(rule: Any) -> Line:
    if not isinstance(rule, dict):
        raise LoginRefused("a rule is an object")
    if isinstance(rule.get("topic"), str):
        texts = [rule["topic"]]
    elif isinstance(rule.get("topics"), list) and all(isinstance(text, str) for text in rule["topics"]):
        texts = rule["topics"]
    else:
        raise LoginRefused("neither topic nor topics")
    if rule.get("permission") not in ("allow", "deny") or rule.get("action") not in _ACTIONS:
        raise LoginRefused("permission or action")
    return Line(
        rule["permission"],
        _ACTIONS[rule["action"]],
        tuple(_topic(text) for text in texts),
        _qos(rule.get("qos")),
        _retain(rule.get("retain")),
    )


def _topic(text: str) -> Topic:
    if text.startswith("eq eq "):
        raise LoginRefused("eq in eq")
    return Topic(text[3:], literal=True) if text.startswith("eq ") else Topic(text, literal=False)


def _qos(value: Any) -> tuple[int, ...]:
    if value is None:
        return (0, 1, 2)
    several = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if any(type(one) is bool or one not in _QOS for one in several):
        raise LoginRefused("qos")
    return tuple(_QOS[one] for one in several)


def _retain(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if not isinstance(value, (str, int, type(None))) or value not in _RETAIN:
        raise LoginRefused("retain")
    return _RETAIN[value]


def stripped(action: str, topic: str) -> str:
    """Return the topic as it reaches the rules (and the HTTP source)."""
    if action == "subscribe":
        if topic.startswith("$share/") and topic.count("/") > 1:
            topic = topic.split("/", 2)[2]
        else:
            topic = topic[len("$queue/") :] if topic.startswith("$queue/") else topic.removeprefix("$exclusive/")
    while topic.startswith("$delayed/") and topic.count("/") > 1:
        topic = topic.split("/", 2)[2]
    return topic


def decide(
    lines: Sequence[Line], client: Mapping[str, str], action: str, topic: str, qos: int, *, retain: bool = False
) -> str | None:
    """Return `allow` or `deny`, and None when no rule matches.

    `topic` is as it comes from `stripped`; `client` holds what placeholders stand for.
    """
    wanted = topic.split("/")
    for line in lines:
        if line.action not in (action, "all") or qos not in line.qos:
            continue
        if action == "publish" and line.retain not in (None, retain):
            continue
        if any(_meets(wanted, one, client) for one in line.topics):
            return line.permission
    return None


def _meets(wanted: Words, topic: Topic, client: Mapping[str, str]) -> bool:
    if topic.literal:
        return wanted == topic.text.split("/")
    text = _filled_in(topic.text, client)
    return text is not None and matches(wanted, text.split("/"))


def _filled_in(text: str, client: Mapping[str, str]) -> str | None:
    """Return the filter with its placeholders; one without a value makes it match nothing, one not allowed stays as it is."""
    names = [name for name in _PLACEHOLDER.findall(text) if name in _KNOWN_PLACEHOLDERS]
    if any(name not in client for name in names):
        return None
    return _PLACEHOLDER.sub(lambda found: client.get(found[1], found[0]) if found[1] in names else found[0], text)


def matches(name: Words, topic_filter: Words) -> bool:
    """Compare words, the way `emqx_topic:match/2` does: the name's own wildcards have no meaning."""
    if name[0].startswith("$") and topic_filter[0] in ("+", "#"):
        return False
    return _match(name, topic_filter)


def _match(name: Words, topic_filter: Words) -> bool:
    if topic_filter == ["#"]:
        return True
    if not name or not topic_filter:
        return name == topic_filter
    same = topic_filter[0] in (name[0], "+")
    return same and _match(name[1:], topic_filter[1:])
