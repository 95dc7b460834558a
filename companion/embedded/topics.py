"""Which topic the hooks are asked about: EMQX strips the prefixes that are not part of a topic before it asks."""

from __future__ import annotations

from typing import Final

from companion.core.topics import split_share

_WHOLE_PREFIXES: Final = ("$queue/", "$exclusive/")


def asked_filter(topic_filter: str) -> str:
    """Return a topic filter without `$share/{group}/`, `$queue/` or `$exclusive/`; wildcards stay as they are.

    Raises `Invalid` for a shared subscription without a group or a filter (MQTT 5 §4.8.2).
    """
    for prefix in _WHOLE_PREFIXES:
        if topic_filter.startswith(prefix):
            return topic_filter.removeprefix(prefix)
    _group, plain = split_share(topic_filter)
    return plain
