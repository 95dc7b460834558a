"""An independent oracle for topics and filters: MQTT 5 §4.7 as regular expressions, and sets of topics instead of algebra.

`matches` turns the filter into a regular expression over the topic's text and adds the rule for `$`. `covers` and `overlaps` mean
something about *every* topic; the oracle takes the words literally and looks at each topic of a finite universe. Why a finite
universe is enough, for filters whose longest has n levels:

1. *Few levels matter.* A filter compares the level at position i of a topic only for equality with its own literal at position i,
   and, at position 0 alone, asks whether it begins with `$`. So a level that no filter names at position i may be exchanged for
   any other such level (at position 0: one that begins with `$` for another that does) without changing a single verdict. One
   fresh literal, and one fresh `$` level at position 0, stand for all of them.
2. *Few depths matter.* A filter of k ≤ n levels without `#` matches no topic of more than k levels; one that ends in `#` looks at
   the first k - 1 levels and asks only that they are there. So a topic of more than n + 1 levels may be cut to its first n + 1
   without changing a verdict.

Hence, if some topic tells filters apart (or is shared by them), then a topic of at most n + 1 levels over their literals, one fresh
literal and one fresh `$` level does so too. `topics_for` yields exactly those; `Universe` holds more than those for every filter
over a given alphabet.

The empty name (one empty level) is no valid topic (§4.7.3), yet it has levels. The universes hold it unless told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product

from companion.core.topics import Levels

EMPTY_NAME: Levels = ("",)

_FILTER_GRAMMAR = re.compile(r"#|(?:\+|[^/+#]*)(?:/(?:\+|[^/+#]*))*(?:/#)?")
_NAME_GRAMMAR = re.compile(r"[^+#]*")


def is_name(text: str) -> bool:
    """Tell whether `text` is a valid topic name."""
    return _is_mqtt_string(text) and _NAME_GRAMMAR.fullmatch(text) is not None


def is_filter(text: str) -> bool:
    """Tell whether `text` is a valid topic filter, `$share` apart."""
    return _is_mqtt_string(text) and _FILTER_GRAMMAR.fullmatch(text) is not None


def _is_mqtt_string(text: str) -> bool:
    printable = "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
    return printable and 1 <= sum(_utf8_size(ord(character)) for character in text) <= 0xFFFF


def _utf8_size(code_point: int) -> int:
    return 1 + (code_point > 0x7F) + (code_point > 0x7FF) + (code_point > 0xFFFF)


@lru_cache(maxsize=4096)
def as_regex(topic_filter: Levels) -> re.Pattern[str]:
    """Return the expression whose full matches are the topics (as text) that the filter matches, the rule for `$` included."""
    *above, last = topic_filter
    open_end = last == "#"
    levels = above if open_end else topic_filter
    body = "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels)
    tail = "(?:/.*)?" if open_end else ""
    guard = r"(?!\$)" if topic_filter[0] in ("+", "#") else ""
    return re.compile(f"{guard}{body}{tail}" if levels else f"{guard}.*", re.DOTALL)


def matches(topic_filter: Levels, topic: Levels) -> bool:
    """Tell whether a message to `topic` reaches a subscription to `topic_filter`."""
    return as_regex(topic_filter).fullmatch("/".join(topic)) is not None


def covers(wide: Levels, narrow: Levels) -> bool:
    """Tell whether no topic that `narrow` matches is missed by `wide`."""
    return not any(matches(narrow, topic) and not matches(wide, topic) for topic in topics_for(wide, narrow))


def overlaps(one: Levels, other: Levels) -> bool:
    """Tell whether some topic is matched by both filters."""
    return any(matches(one, topic) and matches(other, topic) for topic in topics_for(one, other))


def topics_for(*filters: Levels) -> Iterator[Levels]:
    """Yield topics that are enough to tell anything about these filters together (see above)."""
    named = {level for levels in filters for level in levels}
    fresh = "~" * (1 + max(map(len, named)))
    depth = 1 + max(map(len, filters))
    alphabets = [
        sorted({levels[position] for levels in filters if position < len(levels)} - {"+", "#"} | {fresh})
        for position in range(depth)
    ]
    alphabets[0].append("$" + fresh)
    for size in range(1, depth + 1):
        yield from product(*alphabets[:size])


class Universe:
    """Every filter of up to `depth` levels over an alphabet, enough topics to tell anything about them, and who matches whom.

    The topics have up to `depth` + 1 levels, over the alphabet, a fresh literal and a fresh `$` level at every position. A set of
    topics is an integer, one bit for each, so that all pairs of filters can be asked in a moment.
    """

    def __init__(self, literals: Sequence[str], depth: int) -> None:
        self.filters = tuple(_filters(literals, depth))
        alphabet = (*literals, "~", "$~")
        self.topics: tuple[Levels, ...] = tuple(
            topic for size in range(1, depth + 2) for topic in product(alphabet, repeat=size)
        )
        self._bit = {topic: 1 << index for index, topic in enumerate(self.topics)}
        self._matched = {
            one: self._set_of(topic for topic in self.topics if matches(one, topic)) for one in self.filters
        }

    def _set_of(self, topics: Iterable[Levels]) -> int:
        return sum(self._bit[topic] for topic in topics)

    def matched(self, topic_filter: Levels) -> list[Levels]:
        """Return the topics that the filter matches."""
        bits = self._matched[topic_filter]
        return [topic for topic, bit in self._bit.items() if bits & bit]

    def covers(self, wide: Levels, narrow: Levels, *, without: Collection[Levels] = ()) -> bool:
        """Tell whether `wide` matches all that `narrow` matches, leaving out the topics in `without`."""
        return not self._matched[narrow] & ~self._matched[wide] & ~self._set_of(without)

    def overlaps(self, one: Levels, other: Levels, *, without: Collection[Levels] = ()) -> bool:
        """Tell whether both match a topic, leaving out the topics in `without`."""
        return bool(self._matched[one] & self._matched[other] & ~self._set_of(without))


def _filters(literals: Sequence[str], depth: int) -> Iterator[Levels]:
    for size in range(depth + 1):
        for levels in product((*literals, "+"), repeat=size):
            if levels and levels != EMPTY_NAME:
                yield levels
            if size < depth:
                yield (*levels, "#")
