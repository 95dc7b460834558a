"""Presence by events that come in any order, and as often as they like."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.broker_events import BrokerEvent, EventKind
from companion.core.presence import Present, merged
from companion.core.pseudonyms import Pseudonyms

MOMENTS = range(1, 6)


def connected(at: int, peer: str = "10.0.0.1:1", **more: object) -> BrokerEvent:
    return BrokerEvent("c", EventKind.CONNECTED, at, "c1", "alice", connected_at=at, peer=peer, node="n", **more)  # type: ignore[arg-type]


def disconnected(began: int | None, at: int, peer: str = "10.0.0.1:1", reason: str = "normal") -> BrokerEvent:
    kind = EventKind.DISCONNECTED
    return BrokerEvent(
        "d", kind, at, "c1", "alice", connected_at=began, disconnected_at=at, peer=peer, reason=reason, node="n"
    )


def after(*events: BrokerEvent) -> Present:
    state: Present | None = None
    for event in events:
        state = merged(state, event) or state
    assert state is not None
    return state


def test_a_life() -> None:
    """Connected, then not; every change makes a new revision, a repetition none."""
    first = after(connected(10))
    assert (first.online, first.connected_at, first.revision, first.told) == (True, 10, 1, False)
    assert merged(first, connected(10)) is None
    ended = after(connected(10), disconnected(10, 20, reason="kicked"))
    assert (ended.online, ended.disconnected_at, ended.reason, ended.revision) == (False, 20, "kicked", 2)
    assert merged(replace(ended, told=True), disconnected(10, 20)) is None
    assert merged(ended, connected(10)) is None


@pytest.mark.parametrize("reason", ["takenover", "discarded", "keepalive_timeout"])
def test_the_end_of_an_older_connection(reason: str) -> None:
    """However an older connection ended, the newer one goes on, whichever is told first."""
    events = [connected(10), connected(30, "10.0.0.1:2"), disconnected(10, 31, reason=reason)]
    for order in ((0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0), (2, 0, 1), (1, 0, 2)):
        state = after(*(events[index] for index in order))
        assert (state.online, state.connected_at, state.peer) == (True, 30, "10.0.0.1:2")


def test_an_address_that_was_made_a_pseudonym() -> None:
    """Where it came from is not known any more: its end is its end all the same."""
    state = replace(after(connected(10)), peer=Pseudonyms("k" * 32).of("10.0.0.1:1"), username="anon")
    assert merged(state, connected(10)) is None
    ended = merged(state, disconnected(10, 20))
    assert ended is not None
    assert (ended.online, ended.username, ended.peer) == (False, "anon", state.peer)


def test_two_in_one_millisecond() -> None:
    """Two connections that began in one millisecond are told apart by where they came from."""
    events = [connected(10, "a:1"), connected(10, "b:1"), disconnected(10, 10, "a:1", "takenover")]
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        assert after(*(events[index] for index in order)).online


def test_an_end_that_names_no_connection() -> None:
    """Such an end, as the 4.4 webhook tells it, ends what began before it, and a take-over ends nothing."""
    assert not after(connected(10), disconnected(None, 20)).online
    assert not after(disconnected(None, 20), connected(10)).online
    assert after(disconnected(None, 20), connected(21)).online
    assert after(connected(10), disconnected(None, 20, reason="takeovered")).online
    assert merged(None, disconnected(None, 20, reason="discarded")) is None


def test_a_client_id_that_changes_hands() -> None:
    """Whose it was before is known until that is shown."""
    mine = after(connected(10))
    bobs = merged(mine, replace(connected(20), username="bob"))
    assert bobs is not None
    assert (bobs.principal, bobs.formers) == ("bob", ("alice",))
    carols = merged(bobs, replace(connected(30), username="carol"))
    assert carols is not None
    assert carols.formers == ("alice", "bob")
    shown = merged(replace(carols, told=True), disconnected(30, 40))
    assert shown is not None
    assert shown.formers == ()


def test_what_is_not_about_connections() -> None:
    """Other events change nothing."""
    assert merged(None, BrokerEvent("s", EventKind.SUBSCRIBED, 1, "c1")) is None


LIVES = st.lists(
    st.tuples(st.sampled_from(MOMENTS), st.sampled_from("ab"), st.integers(0, 3), st.booleans()), min_size=1, max_size=6
)
GONE = st.lists(st.builds(disconnected, st.none(), st.sampled_from(MOMENTS)), max_size=2)


@given(lives=LIVES, gone=GONE, data=st.data())
def test_any_order_leads_to_the_same(
    lives: list[tuple[int, str, int, bool]], gone: list[BrokerEvent], data: st.DataObject
) -> None:
    """Any order, and any repetition, of the same events leads to the same record."""
    # One connection has one end.
    ends = {(began, peer): began + length for began, peer, length, ended in lives if ended}
    events = [connected(began, peer) for began, peer, _, _ in lives]
    events += [disconnected(began, end, peer) for (began, peer), end in ends.items()]
    events += gone
    shuffled = data.draw(st.permutations(events)) + data.draw(st.lists(st.sampled_from(events), max_size=4))
    assert replace(after(*events), revision=0) == replace(after(*shuffled), revision=0)
