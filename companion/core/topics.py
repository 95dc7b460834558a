"""Topic names and topic filters as MQTT 5 §4.7 defines them.

A *topic name* is what a message is published to; a *topic filter* is what a subscription asks for and may hold the wildcards
`+` (one level) and `#` (this level, everything below, and the parent itself; last level only). Two rules decide most mistakes:

* `#` and a leading `+` do not match topics that begin with `$` (§4.7.2);
* `a/#` also matches `a` (§4.7.1.2).

All functions here are pure and take valid input; `check_topic` and `check_filter` are the doors.
"""

from __future__ import annotations

from typing import Final

from companion.core.errors import Invalid

MAX_TOPIC_BYTES: Final = 65_535
"""Longest UTF-8 encoded string that MQTT can carry (MQTT 5 §1.5.4)."""

SHARE_PREFIX: Final = "$share/"

Levels = tuple[str, ...]
"""A name or filter split at `/`. There is always at least one level; a level may be empty."""


def check_topic(topic: str, field: str = "topic") -> Levels:
    """Return the levels of a valid topic name (MQTT 5 §4.7.1, §4.7.3); raise `Invalid` naming `field` otherwise."""
    _check_string(topic, field)
    if "+" in topic or "#" in topic:
        raise Invalid(field, topic, "a topic name holds no wildcard (+ or #)")
    return tuple(topic.split("/"))


def check_filter(topic_filter: str, field: str = "filter") -> Levels:
    """Return the levels of a valid topic filter without `$share` (MQTT 5 §4.7.1); raise `Invalid` naming `field` otherwise."""
    _check_string(topic_filter, field)
    levels = tuple(topic_filter.split("/"))
    last = len(levels) - 1
    for index, level in enumerate(levels):
        if "#" in level and (level != "#" or index != last):
            raise Invalid(field, topic_filter, "# stands alone in the last level")
        if "+" in level and level != "+":
            raise Invalid(field, topic_filter, "+ stands alone in its level")
    return levels


def split_share(topic_filter: str, field: str = "filter") -> tuple[str | None, str]:
    """Split a shared subscription `$share/{group}/{filter}` (MQTT 5 §4.8.2) into (group, filter).

    A filter that is not shared comes back as (None, filter). Raises `Invalid` for text that MQTT cannot carry, for a group that is
    empty or holds a wildcard, and for a missing filter; the filter itself is not checked here.
    """
    if topic_filter != "$share" and not topic_filter.startswith(SHARE_PREFIX):
        return None, topic_filter
    _check_string(topic_filter, field)
    group, slash, rest = topic_filter[len(SHARE_PREFIX) :].partition("/")
    if not group or not slash or not rest or "+" in group or "#" in group:
        raise Invalid(field, topic_filter, "a shared subscription is $share/{group}/{filter}, the group without + # /")
    return group, rest


def matches(topic_filter: Levels, topic: Levels) -> bool:
    """Tell whether a message published to `topic` reaches a subscription to `topic_filter` (MQTT 5 §4.7)."""
    if topic[0][:1] == "$" and topic_filter[0] in ("+", "#"):
        return False
    depth = len(topic)
    for index, level in enumerate(topic_filter):
        if level == "#":
            return True
        if index == depth or (level != "+" and level != topic[index]):
            return False
    return len(topic_filter) == depth


def covers(wide: Levels, narrow: Levels) -> bool:
    """Tell whether every topic that `narrow` matches is matched by `wide` too.

    `+` does not cover `#`, `+/#` does (every topic has at least one level), and no wildcard in the first level covers a
    filter that begins with a `$` level.
    """
    if narrow[0][:1] == "$" and wide[0] in ("+", "#"):
        return False
    if narrow == ("#",):
        narrow = ("+", "#")
    depth = len(narrow)
    for index, level in enumerate(wide):
        if level == "#":
            return True
        if index == depth or narrow[index] == "#":
            return False
        if level not in ("+", narrow[index]):
            return False
    return len(wide) == depth


def overlaps(one: Levels, other: Levels) -> bool:
    """Tell whether at least one topic is matched by both filters."""
    first, second = one[0], other[0]
    if (first in ("+", "#") and second[:1] == "$") or (second in ("+", "#") and first[:1] == "$"):
        return False
    for left, right in zip(one, other, strict=False):
        if left == "#" or right == "#":
            return True
        if left not in (right, "+") and right != "+":
            return False
    if len(one) == len(other):
        return True
    longer, depth = (one, len(other)) if len(one) > len(other) else (other, len(one))
    return longer[depth] == "#"


def _check_string(text: str, field: str) -> None:
    if not text:
        raise Invalid(field, text, "at least one character")
    if "\0" in text:
        raise Invalid(field, text, "no NUL character (MQTT 5 §1.5.4)")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Invalid(field, text, "valid UTF-8 without surrogates (MQTT 5 §1.5.4)") from None
    if size > MAX_TOPIC_BYTES:
        raise Invalid(field, text, f"at most {MAX_TOPIC_BYTES} bytes of UTF-8; this has {size}")
