"""Rules from files: enforced, shadowed, and read again while the service runs."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from companion.core.errors import Invalid
from companion.core.model import Account, Kind
from companion.core.rules import EVERYONE, Effect, Rule, RuleAction
from companion.metrics import Metrics
from companion.reloading import Reloading
from tests.support.eventually import eventually
from tests.support.service import OPS_KEY, Service, serving


def rule(filter_: str, effect: str = "allow", subject: str = "everyone", **more: str) -> str:
    fields = {"subject": subject, "effect": effect, "action": "all", "filter": filter_} | more
    return "[[rules]]\n" + "".join(f'{name} = "{value}"\n' for name, value in fields.items())


def put(path: Path, content: str | None) -> None:
    """Write a file; None removes it."""
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


class House:
    """A service with both files."""

    def __init__(self, folder: Path) -> None:
        self.enforced, self.shadow = folder / "rules.toml", folder / "shadow.toml"
        self._services: list[Service] = []

    @property
    def service(self) -> Service:
        return self._services[0]

    @contextlib.asynccontextmanager
    async def open(self, folder: Path, **changes: Any) -> AsyncIterator[Service]:
        files = {"rules_file": self.enforced, "rules_shadow_file": self.shadow}
        async with serving(folder, **(files | changes)) as service:
            await service.store.accounts.add([Account("alice", Kind.DEVICE, "alice", "no hash", groups=("night",))])
            await service.store.rules.add(Rule(EVERYONE, Effect.ALLOW, RuleAction.ALL, "stored", id=""))
            self._services.append(service)
            yield service


@pytest.fixture
async def house(tmp_path: Path, logged: io.StringIO) -> AsyncIterator[House]:
    """Run the hooks with an enforced file that allows `old` and a shadow that allows `new`."""
    del logged
    house = House(tmp_path)
    house.enforced.write_text(rule("old"))
    house.shadow.write_text(rule("new") + rule("secret/#", "deny", "group:night"))
    async with house.open(tmp_path / "data"):
        yield house


async def reload(service: Service, key: str = OPS_KEY) -> tuple[int, dict[str, Any]]:
    async with service.http.post(f"{service.ops}/reload", headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status, await response.json()


async def outcomes(service: Service) -> dict[str, float]:
    return {labels["outcome"]: value for labels, value in await service.samples("companion_shadow_decisions_total")}


async def test_a_file_beside_the_store(house: House) -> None:
    """Its rules hold as well as the stored ones; those of the shadow allow nothing."""
    may = {topic: await house.service.may("alice", "publish", topic) for topic in ("old", "stored", "new", "alice/x")}
    assert may == {"old": True, "stored": True, "new": False, "alice/x": False}
    assert await house.service.may("alice", "subscribe", "alice/#")


async def test_the_shadow_is_counted_and_told(house: House, logged: io.StringIO) -> None:
    """Where it differs is counted by direction, logged and audited with both verdicts; the answer is the enforced one."""
    service = house.service
    for topic in ("stored", "old", "old", "new"):
        await service.may("alice", "publish", topic)
    assert await outcomes(service) == {"same": 1, "would_refuse": 2, "would_allow": 1}
    records = [one for one in await service.audits(4) if one.kind == "shadow"]
    assert [(one.verdict, one.reason, one.rule, one.topic, one.username, one.detail) for one in records] == [
        ("deny", "no_rule", "", "old", "alice", "enforced: allow: rule (file:1)"),
        ("deny", "no_rule", "", "old", "alice", "enforced: allow: rule (file:1)"),
        ("allow", "rule", "shadow:1", "new", "alice", "enforced: deny: no_rule"),
    ]
    assert logged.getvalue().count("the shadow differs") == 3


async def test_samples_are_bounded(tmp_path: Path, logged: io.StringIO) -> None:
    """Beyond so many a minute differences are only counted."""
    house = House(tmp_path)
    house.enforced.write_text("")
    house.shadow.write_text(rule("new"))
    async with house.open(tmp_path / "data", rules_shadow_samples=3) as service:
        for _ in range(10):
            assert not await service.may("alice", "publish", "new")
        assert (await outcomes(service))["would_allow"] == 10
    assert logged.getvalue().count("the shadow differs") == 3


async def test_the_shadow_takes_its_place(house: House) -> None:
    """The other file in the place of the first and a word: from then on it decides, for those who are remembered too."""
    service = house.service
    assert await service.may("alice", "publish", "old")
    assert not await service.may("alice", "publish", "new")
    house.shadow.replace(house.enforced)
    house.shadow.write_text("stored = false\n")
    assert await service.may("alice", "publish", "old")
    assert await reload(service) == (200, {"status": "reloaded", "parts": ["rules", "keys"]})
    assert not await service.may("alice", "publish", "old")
    assert await service.may("alice", "publish", "new")
    # The new shadow goes without the stored rules too.
    before = await outcomes(service)
    assert await service.may("alice", "publish", "stored")
    assert (await outcomes(service))["would_refuse"] == before["would_refuse"] + 1
    assert await service.metric("companion_reloads_total", outcome="done") == 1


async def test_instead_of_the_store(tmp_path: Path) -> None:
    """A file can say that it stands instead of what the store has; own topics hold all the same."""
    house = House(tmp_path)
    house.enforced.write_text("stored = false\n" + rule("new"))
    house.shadow.write_text("")
    async with house.open(tmp_path / "data") as service:
        assert not await service.may("alice", "publish", "stored")
        assert await service.may("alice", "publish", "new")
        assert await service.may("alice", "subscribe", "alice/#")


@pytest.mark.parametrize("bad", ["enforced", "shadow"])
@pytest.mark.parametrize("content", ['[[rules]]\nsubject = "nobody"\n', "rules = ", None])
async def test_a_bad_file_changes_nothing(house: House, logged: io.StringIO, bad: str, content: str | None) -> None:
    """Neither file is taken when one is wrong: the answer, the log and a metric tell, until both are right."""
    service = house.service
    house.enforced.write_text(rule("newer"))
    house.shadow.write_text(rule("newest"))
    put(getattr(house, bad), content)
    status, answer = await reload(service)
    assert status == 422
    assert answer["field"].startswith("rules_file" if bad == "enforced" else "rules_shadow_file")
    assert answer["error"] in logged.getvalue().replace("\\\\", "\\").replace('\\"', '"')
    assert await service.may("alice", "publish", "old")
    assert not await service.may("alice", "publish", "newer")
    assert await service.metric("companion_reloads_total", outcome="refused") == 1
    assert await service.metric("companion_reload_refused") == 1
    put(getattr(house, bad), rule("good"))
    assert (await reload(service))[0] == 200
    assert await service.metric("companion_reload_refused") == 0
    assert not await service.may("alice", "publish", "old")


async def test_a_key_is_needed(house: House) -> None:
    """Without the key of the operations port nothing is read again."""
    house.enforced.write_text(rule("newer"))
    assert (await reload(house.service, "another-key-than-that-one"))[0] == 401
    assert await house.service.may("alice", "publish", "old")


async def test_a_start_with_a_bad_file(tmp_path: Path) -> None:
    """The start ends with what is wrong: there is nothing older to go on with."""
    house = House(tmp_path)
    house.enforced.write_text("x = 1")
    house.shadow.write_text("")
    with pytest.raises(Invalid, match=r"rules_file\.x"):
        async with house.open(tmp_path / "data"):
            pass


async def test_never_a_mixture(house: House) -> None:
    """Under reloads in a row every answer is that of one file or of the other, whole: one of the two topics is always allowed."""
    service = house.service
    texts = [rule("one") + rule("two", "deny"), rule("two") + rule("one", "deny")]
    house.enforced.write_text(texts[0])
    await reload(service)
    ended = asyncio.Event()

    async def ask(topic: str) -> int:
        allowed = 0
        while not ended.is_set():
            allowed += await service.may("alice", "publish", topic)
        return allowed

    asking = [asyncio.ensure_future(ask(topic)) for topic in ("one", "two")]
    for round_ in range(1, 21):
        house.enforced.write_text(texts[round_ % 2])
        assert (await reload(service))[0] == 200
        # What was told is in force when the answer comes.
        assert await service.may("alice", "publish", ("one", "two")[round_ % 2])
        assert not await service.may("alice", "publish", ("two", "one")[round_ % 2])
    ended.set()
    assert all(await asyncio.gather(*asking))


async def test_all_parts_or_none() -> None:
    """What was prepared is put into force only when every part is good, and one that fails in an unforeseen way harms nothing."""
    metrics, done = Metrics(), []
    reloading = Reloading(metrics)
    bad = True

    async def first() -> Any:
        return lambda: done.append("first")

    async def second() -> Any:
        if bad:
            raise RuntimeError("s3cret")
        return lambda: done.append("second")

    async def follow() -> list[str]:
        return [] if len(done) == 2 else ["worker 1 sleeps"]

    reloading.add("first", first)
    reloading.add("second", second)
    reloading.follow(follow)
    outcome = await reloading.reload()
    assert done == []
    assert outcome.told is not None
    assert "second" in outcome.told
    assert "s3cret" not in outcome.told
    bad = False
    assert (await reloading.reload()).told is None
    assert done == ["first", "second"]
    reloading.ask()
    await eventually(_true(lambda: len(done) == 4), what="it is read again")
    assert (await reloading.reload()).told == "worker 1 sleeps"


def _true(ask: Any) -> Any:
    async def asked() -> bool:
        return bool(ask())

    return asked
