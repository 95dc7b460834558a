"""The port `Rules`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import cycle, product

import pytest

from companion.core.errors import CompanionError, Invalid
from companion.core.ports import Store
from companion.core.rules import (
    ANY_QOS,
    EVERYONE,
    Effect,
    Rule,
    RuleAction,
    subject_of_account,
    subject_of_group,
    subject_of_kind,
    subject_of_tenant,
)
from companion.core.windows import Window
from tests.support.adapters import Open
from tests.support.entities import HOSTILE
from tests.support.policies import QOS_SETS

PORTS = {"rules"}


def rule(filter_: str = "t/#", subject: str = EVERYONE, qos: frozenset[int] = ANY_QOS) -> Rule:
    return Rule(subject, Effect.ALLOW, RuleAction.ALL, filter_, qos)


async def test_no_rules_at_first(store: Store) -> None:
    """A new store has no rules."""
    assert list(await store.rules.list()) == []
    assert list(await store.rules.of([EVERYONE])) == []


async def test_every_field_comes_back(store: Store) -> None:
    """Every effect, action, QoS set and retain limit is found as it was added, with an id of its own, oldest first."""
    limits = list(zip(QOS_SETS, cycle((None, True, False)), strict=False))
    wanted = [
        Rule(EVERYONE, effect, action, "a/${username}/+/é 🦔/#", qos=qos, retain=retain)
        for effect, action, (qos, retain) in product(Effect, RuleAction, limits)
    ]
    added = [await store.rules.add(one) for one in wanted]
    assert [replace(one, id="") for one in added] == wanted
    assert all(one.id for one in added)
    assert len({one.id for one in added}) == len(added)
    assert list(await store.rules.list()) == added
    assert list(await store.rules.of([EVERYONE])) == added


async def test_conditions_come_back(store: Store) -> None:
    """Windows and locations are found as they were added, in their order."""
    night = Window("0 22 * * *", 8 * 3600, "Europe/Berlin")
    wanted = [
        replace(rule(), windows=(night,)),
        replace(rule(), locations=("2001:db8::/32", "10.0.0.1")),
        replace(rule(), windows=(Window("*/5 * * * * *", 1), night), locations=("0.0.0.0/0",)),
        rule(),
    ]
    added = [await store.rules.add(one) for one in wanted]
    assert [replace(one, id="") for one in added] == wanted
    assert list(await store.rules.list()) == added
    assert [one.conditional for one in await store.rules.of([EVERYONE])] == [True, True, True, False]


async def test_the_same_rule_twice(store: Store) -> None:
    """Equal rules are two rules, and one can go without the other."""
    first, second = await store.rules.add(rule()), await store.rules.add(rule())
    assert first.id != second.id
    assert await store.rules.remove(first.id) is True
    assert list(await store.rules.list()) == [second]


async def test_a_given_id_means_nothing(store: Store) -> None:
    """The store gives ids, whatever the rule came with."""
    first = await store.rules.add(rule())
    second = await store.rules.add(first)
    assert first.id != second.id


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (rule("a/#/b"), "filter"),
        (rule(""), "filter"),
        (rule("a/${nobody}"), "filter"),
        (rule("a/\0"), "filter"),
        (rule("a/\ud800"), "filter"),
        (rule("$share/g/a"), "filter"),
        (rule(subject="robots"), "subject"),
        (rule(subject="kind:robot"), "subject"),
        (rule(qos=frozenset()), "qos"),
        (rule(qos=frozenset({0, 3})), "qos"),
        (rule(subject="group:"), "subject"),
        (replace(rule(), windows=(Window("0 8 * * *", 0),)), "windows[0].duration"),
        (replace(rule(), locations=("here",)), "locations[0]"),
    ],
)
async def test_what_cannot_be_enforced_is_not_stored(store: Store, bad: Rule, field: str) -> None:
    """A rule that no policy could hold is refused, naming what is wrong."""
    with pytest.raises(Invalid) as refused:
        await store.rules.add(bad)
    assert refused.value.field == field
    assert list(await store.rules.list()) == []


async def test_removing(store: Store) -> None:
    """A rule is removed once; what is no id of a rule removes nothing."""
    kept, gone = await store.rules.add(rule("kept")), await store.rules.add(rule("gone"))
    assert await store.rules.remove(gone.id) is True
    assert await store.rules.remove(gone.id) is False
    for unknown in ("", "0", "-1", "nonsense", f" {kept.id}", f"{kept.id}.0", f"0{kept.id}", "9" * 40):
        assert await store.rules.remove(unknown) is False
    assert list(await store.rules.list()) == [kept]


async def test_ids_are_not_used_again(open_store: Open) -> None:
    """The id of a removed rule stays free, also after reopening: a log that names it means the old one."""
    async with open_store() as store:
        newest = await store.rules.add(rule())
        await store.rules.remove(newest.id)
    async with open_store() as store:
        assert (await store.rules.add(rule())).id != newest.id


async def test_of_subjects(store: Store) -> None:
    """The rules of the asked subjects come, oldest first whatever the order of the question, and no others."""
    kind, alice = subject_of_kind("device"), subject_of_account("alice")
    first = await store.rules.add(rule("1", alice))
    await store.rules.add(rule("2", subject_of_account("bob")))
    third = await store.rules.add(rule("3", EVERYONE))
    fourth = await store.rules.add(rule("4", kind))
    fifth = await store.rules.add(rule("5", alice))
    assert list(await store.rules.of([EVERYONE, kind, alice])) == [first, third, fourth, fifth]
    assert list(await store.rules.of([alice, alice])) == [first, fifth]
    assert list(await store.rules.of([])) == []


async def test_subjects_are_what_they_are(store: Store) -> None:
    """Subjects that look alike have rules of their own."""
    added = {name: await store.rules.add(rule(subject=subject_of_account(name))) for name in HOSTILE}
    for name, one in added.items():
        assert list(await store.rules.of([subject_of_account(name)])) == [one]
        assert list(await store.rules.of([subject_of_group(name), subject_of_tenant(name)])) == []


async def test_a_refusal_harms_no_rule_beside_it(store: Store) -> None:
    """Rules that are refused among many at once take none of the good ones with them."""
    adding = [store.rules.add(rule("a/#/b" if number % 3 == 0 else f"t/{number}")) for number in range(30)]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    good = [outcome for outcome in outcomes if isinstance(outcome, Rule)]
    assert [isinstance(outcome, Invalid) for outcome in outcomes] == [number % 3 == 0 for number in range(30)]
    assert {one.id: one for one in await store.rules.list()} == {one.id: one for one in good}


async def test_what_cannot_be_asked_for(store: Store) -> None:
    """Text that is no UTF-8 is refused with an error of ours."""
    for call in (store.rules.of(["account:\ud800"]), store.rules.remove("\ud800")):
        with pytest.raises(CompanionError):
            await call


async def test_seen_by_others_and_after_reopening(open_store: Open) -> None:
    """Another store sees rules come and go, and so does one that is opened later."""
    async with open_store() as store, open_store() as other:
        kept = await store.rules.add(rule("kept", qos=ANY_QOS))
        gone = await other.rules.add(rule("gone"))
        assert list(await other.rules.list()) == [kept, gone]
        await store.rules.remove(gone.id)
        assert list(await other.rules.of([EVERYONE])) == [kept]
    async with open_store() as store:
        assert list(await store.rules.list()) == [kept]
