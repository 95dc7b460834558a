"""The cache: how long it keeps what, and how much; with a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from broker_hooks.cache import Cache
from companion.metrics import Metrics
from tests.support.clocks import Clock, clock

__all__ = ["clock"]

SECONDS = 100.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def cache(clock: Clock, metrics: Metrics) -> Cache[str, int]:
    return Cache("account", 3, SECONDS, metrics, clock)


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_what_is_put_is_found(cache: Cache[str, int]) -> None:
    """A value is found under its key, the newest one, and a false value is a value."""
    assert cache.get("a") is None
    cache.put("a", 1, cache.epoch)
    cache.put("b", 0, cache.epoch)
    cache.put("a", 2, cache.epoch)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (2, 0, None)


def test_what_is_made_from_something_ends_with_it(cache: Cache[str, int], clock: Clock) -> None:
    """A value that is given an end lives no longer, and one that has ended is not live at all; what is not there has no end."""
    cache.put("a", 1, cache.epoch)
    cache.put("b", 2, cache.epoch, clock.now + SECONDS / 2)
    cache.put("c", 3, cache.epoch, clock.now)
    assert cache.end("a") >= clock.now + SECONDS * 0.8
    assert cache.end("b") == clock.now + SECONDS / 2
    assert cache.end("nothing") == float("inf")
    assert (cache.get("b"), cache.get("c")) == (2, None)
    clock.now += SECONDS / 2
    assert (cache.get("a"), cache.get("b")) == (1, None)


def test_a_life_ends(cache: Cache[str, int], clock: Clock) -> None:
    """A value lives at least four fifths of the time and never longer than all of it."""
    cache.put("a", 1, cache.epoch)
    clock.now += SECONDS * 0.79
    assert cache.get("a") == 1
    clock.now += SECONDS * 0.21
    assert cache.get("a") is None
    assert cache.get("a") is None


def test_looking_does_not_lengthen_a_life(cache: Cache[str, int], clock: Clock) -> None:
    """What is asked for all the time ends as well; what is put again begins a new life."""
    cache.put("a", 1, cache.epoch)
    for _ in range(10):
        clock.now += SECONDS / 10
        cache.get("a")
    assert cache.get("a") is None
    cache.put("a", 2, cache.epoch)
    clock.now += SECONDS * 0.79
    assert cache.get("a") == 2


def test_who_only_looks_changes_nothing(cache: Cache[str, int], clock: Clock, metrics: Metrics) -> None:
    """A live value is shown with the rest of its life, uncounted; one that has ended is not shown, and not let go of."""
    cache.put("a", 0, cache.epoch)
    end = cache.end("a")
    clock.now += 10
    assert cache.peek("a") == (0, end - clock.now)
    assert cache.peek("b") is None
    clock.now = end
    assert cache.peek("a") is None
    assert cache.end("a") == end
    for outcome in ("hit", "miss"):
        assert sample(metrics, "companion_cache_lookups_total", cache="account", outcome=outcome) == 0


def test_not_all_end_at_once(clock: Clock, metrics: Metrics) -> None:
    """Of many values that were put at the same moment some end earlier than others."""
    cache: Cache[int, int] = Cache("account", 1000, SECONDS, metrics, clock)
    for number in range(1000):
        cache.put(number, number, cache.epoch)
    clock.now += SECONDS * 0.9
    left = sum(cache.get(number) is not None for number in range(1000))
    assert 300 < left < 700  # half of them; 12 standard deviations away is no accident


def test_the_oldest_makes_room(cache: Cache[str, int]) -> None:
    """When it is full the value that was put first goes, however often it was asked for."""
    for number, key in enumerate("abc"):
        cache.put(key, number, cache.epoch)
    cache.get("a")
    cache.put("b", 10, cache.epoch)  # put again: now the newest
    cache.put("d", 3, cache.epoch)
    assert [cache.get(key) for key in "abcd"] == [None, 10, 2, 3]
    cache.put("e", 4, cache.epoch)
    assert [cache.get(key) for key in "abcde"] == [None, 10, None, 3, 4]


def test_without_room(clock: Clock, metrics: Metrics) -> None:
    """A cache of no entries keeps nothing."""
    cache: Cache[str, int] = Cache("account", 0, SECONDS, metrics, clock)
    cache.put("a", 1, cache.epoch)
    assert cache.get("a") is None


@pytest.mark.parametrize("way", ["clear", "forget", "forget another"])
def test_what_was_loaded_before_a_change_is_not_kept(cache: Cache[str, int], way: str) -> None:
    """A value whose loading began before something was dropped may be the old one."""
    cache.put("kept", 1, cache.epoch)
    epoch = cache.epoch
    if way == "clear":
        cache.clear()
    else:
        cache.forget("a" if way == "forget" else "b")
    cache.put("a", 1, epoch)
    assert cache.get("a") is None
    assert cache.get("kept") == (None if way == "clear" else 1)
    cache.put("a", 2, cache.epoch)
    assert cache.get("a") == 2


def test_forgetting(cache: Cache[str, int]) -> None:
    """One value goes, the others stay; forgetting what is not there is no error."""
    cache.put("a", 1, cache.epoch)
    cache.put("b", 2, cache.epoch)
    cache.forget("a")
    cache.forget("nothing")
    assert (cache.get("a"), cache.get("b")) == (None, 2)


def test_it_is_measured(cache: Cache[str, int], metrics: Metrics, clock: Clock) -> None:
    """Hits, misses and entries are counted under the cache's name."""
    cache.get("a")
    cache.put("a", 1, cache.epoch)
    cache.get("a")
    cache.get("a")
    assert sample(metrics, "companion_cache_entries", cache="account") == 1
    clock.now += SECONDS
    cache.get("a")
    assert sample(metrics, "companion_cache_entries", cache="account") == 0
    counted = [
        sample(metrics, "companion_cache_lookups_total", cache="account", outcome=one) for one in ("hit", "miss")
    ]
    assert counted == [2, 2]


async def test_patience(metrics: Metrics, clock: Clock) -> None:
    """What has expired serves when the store says nothing for too long, unless it may not; without it the store is waited for."""
    cache = Cache[str, int]("account", 3, SECONDS, metrics, clock, stale=SECONDS, patience=0.01)
    gate = asyncio.Event()

    async def slow() -> int:
        await gate.wait()
        return 2

    cache.put("a", 1, cache.epoch)
    clock.now += SECONDS * 1.1
    assert await cache.load("a", slow) == 1
    waiting = [asyncio.ensure_future(one) for one in (cache.load("a", slow, lambda _: False), cache.load("b", slow))]
    done, _ = await asyncio.wait(waiting, timeout=0.1)
    assert not done
    gate.set()
    assert await asyncio.gather(*waiting) == [2, 2]
