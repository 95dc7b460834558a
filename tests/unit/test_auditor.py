"""The auditor, over a real store: what it seals, what it finds, what it leaves in the file."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from companion.core.chain import Chain
from companion.core.errors import Invalid, Permanent
from companion.core.model import Audit
from companion.core.ports import Lease
from companion.core.runs import Progress, Run, Trigger
from companion.leadership import Term
from companion.metrics import Metrics
from companion.stores.embedded import EmbeddedStore
from maintenance import roots
from maintenance.auditor import Auditor
from maintenance.job import Work
from tests.support.entities import audit
from tests.support.service import make_settings

DAY = 86_400
NOW = time.time()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore.open(tmp_path) as opened:
        yield opened


def work_of(
    store: EmbeddedStore, folder: Path, run: str, *, after: float = 0, dry: bool = False, **parameters: str
) -> Work:
    term = Term(Lease("x", "me", 1), 60, 0, lambda: 0.0)
    record = Run(run, "auditor", Trigger.PERSON, 0, 0, parameters=parameters, dry=dry)
    return Work(record, term, make_settings(folder), store, now=lambda: NOW + after * DAY, metrics=Metrics())


async def run(work: Work) -> Progress:
    return [progress async for progress in Auditor().batches(work)][-1]


async def write(store: EmbeddedStore, chain: Chain, count: int = 10, at: float = NOW) -> None:
    await store.audits.keep(chain.seal([audit(int(at * 1000) + n, username="alice") for n in range(count)]))


async def execute(store: EmbeddedStore, statement: str) -> None:
    await store._database.write(lambda connection: connection.execute(statement).rowcount)


def kept(folder: Path) -> list[int]:
    return [json.loads(line)["seal"] for line in (folder / "audit-roots.jsonl").read_text().splitlines()]


async def test_day_after_day(store: EmbeddedStore, tmp_path: Path) -> None:
    """Every run seals what is new in every chain, and proves what the one before has sealed."""
    first, second = Chain(), Chain()
    await write(store, first, 2500)
    await write(store, second)
    dry = await run(work_of(store, tmp_path, "dry", dry=True))
    assert dict(dry.counts) == {"checked": 2510, "unsealed": 2510}
    assert await store.audits.last_seal() is None
    assert not roots.read(tmp_path / "audit-roots.jsonl")

    assert (await run(work_of(store, tmp_path, "one"))).done == 2510
    await write(store, second, 5, NOW + DAY)
    assert (await run(work_of(store, tmp_path, "two", after=1))).done == 2515
    assert (await run(work_of(store, tmp_path, "three", after=2))).done == 5
    assert (await run(work_of(store, tmp_path, "four", after=3, all="true"))).done == 2515
    seals = await store.audits.seals(0, 10)
    assert [len(seal.segments) for seal in seals] == [2, 1, 0, 0]
    assert sum(segment.size for seal in seals for segment in seal.segments) == 2515
    assert roots.read(tmp_path / "audit-roots.jsonl") == {seal.number: seal.root for seal in seals}
    assert kept(tmp_path) == [1, 2, 3, 4]


async def test_it_goes_on_where_it_died(store: EmbeddedStore, tmp_path: Path) -> None:
    """A run makes one seal, however often it lives, and the file has every root once."""
    await write(store, Chain())
    for _ in range(3):
        await run(work_of(store, tmp_path, "one"))
    assert len(await store.audits.seals(0, 10)) == 1
    (tmp_path / "audit-roots.jsonl").write_bytes(b'{"seal": 1, "ro')
    await run(work_of(store, tmp_path, "one"))
    assert kept(tmp_path) == [1]


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("DELETE FROM audits WHERE number = 5", "it is missing"),
        ("DELETE FROM audits", "10 entries are missing"),
        ("UPDATE audits SET username = 'bob' WHERE number = 5", "it was altered: username"),
        ("UPDATE audits SET verdict = 'allow' WHERE number = 5", "it was altered"),
        ("UPDATE audit_seals SET at = 5", "it was altered"),
        ("DELETE FROM audit_seals", "its root was kept in the file"),
    ],
)
async def test_what_was_done_to_it(store: EmbeddedStore, tmp_path: Path, deed: str, words: str) -> None:
    """The run after fails and says what is wrong and where; so does a check of everything."""
    await write(store, Chain())
    await run(work_of(store, tmp_path, "one"))
    await execute(store, deed)
    work = work_of(store, tmp_path, "two", after=1)
    with pytest.raises(Permanent, match=words):
        await run(work)
    assert (work.metrics.registry.get_sample_value("companion_audit_problems") or 0) > 0


async def test_what_is_outside_of_the_chains(store: EmbeddedStore, tmp_path: Path) -> None:
    """A record in no chain is from before the first seal, or somebody put it there."""
    columns = "at, kind, verdict, reason, username, client_id, peer_host, action, topic, rule, detail"
    for at in (NOW - DAY, NOW + DAY):
        await run(work_of(store, tmp_path, f"{at}", all="true"))
        empty = "''" + ", ''" * 9
        await execute(store, f"INSERT INTO audits ({columns}) VALUES ({int(at * 1000)}, {empty})")  # noqa: S608 - ours
    with pytest.raises(Permanent, match="1 came after the first seal"):
        await run(work_of(store, tmp_path, "again", all="true"))


async def test_retention(store: EmbeddedStore, tmp_path: Path) -> None:
    """What housekeeping removes when it is old enough is no problem; younger records may not be missing."""
    chain = Chain()
    for day in range(3):
        await write(store, chain, 10, NOW + day * DAY)
        await run(work_of(store, tmp_path, f"day {day}", after=day + 0.5))
    settings = make_settings(tmp_path)
    days = settings.retention_audits
    removed = await store.audits.prune(int((NOW + 1 * DAY) * 1000) + 5, 100)
    assert removed == 15
    done = await run(work_of(store, tmp_path, "later", after=days + 1.1, all="true"))
    assert dict(done.counts) == {"checked": 15, "expired": 15}
    with pytest.raises(Permanent, match="10 entries are missing"):
        await run(work_of(store, tmp_path, "sooner", after=days + 0.9 - 1, all="true"))


async def test_too_many(store: EmbeddedStore, tmp_path: Path) -> None:
    """What goes because there are too many may be gone too, as long as there are so many."""
    chain = Chain()
    await write(store, chain, 1500)
    await run(work_of(store, tmp_path, "one"))
    assert await store.audits.trim(1000, 10_000) == 500
    work = work_of(store, tmp_path, "two", all="true")
    settings = make_settings(tmp_path, retention_audits_count=1000)
    work = Work(work.run, work.term, settings, store, now=work.now, metrics=work.metrics)
    assert dict((await run(work)).counts) == {"checked": 1000, "expired": 500}
    await execute(store, "DELETE FROM audits WHERE number = 1400")
    with pytest.raises(Permanent):
        await run(Work(work.run, work.term, settings, store, now=work.now, metrics=work.metrics))


async def test_what_is_on_its_way(store: EmbeddedStore, tmp_path: Path) -> None:
    """Of a batch that is half there, what is whole is sealed, and the rest when it has come."""
    chain = Chain()
    entries = chain.seal([audit(int(NOW * 1000)) for _ in range(10)])
    await store.audits.keep([*entries[:4], *entries[5:]])
    await run(work_of(store, tmp_path, "one"))
    await store.audits.keep(entries)
    await run(work_of(store, tmp_path, "two", after=1))
    seals = await store.audits.seals(0, 10)
    assert [(one.first, one.last) for seal in seals for one in seal.segments] == [(1, 4), (5, 10)]


async def test_pseudonymised_records(store: EmbeddedStore, tmp_path: Path) -> None:
    """They are told as such, and lose what would let somebody try out who it was."""
    await write(store, Chain())
    await run(work_of(store, tmp_path, "one"))
    await execute(store, "UPDATE audits SET username = 'anon-mfzwizltoq2gcz3joa5tembzhe' WHERE number < 4")
    for number in range(2):
        done = await run(work_of(store, tmp_path, f"{number}", all="true"))
        assert done.counts["pseudonymised"] == 3
    entries = await store.audits.entries((await store.audits.chains("", 1))[0].chain, 0, 10)
    assert [bool(one.salt) for one in entries] == [False] * 3 + [True] * 7


async def test_bad_parameters(store: EmbeddedStore, tmp_path: Path) -> None:
    """What `all` may be is told; a file of roots that is none stops the run."""
    with pytest.raises(Invalid, match="true or false"):
        await run(work_of(store, tmp_path, "one", all="perhaps"))
    (tmp_path / "audit-roots.jsonl").write_text("nonsense\n")
    with pytest.raises(Invalid, match="audit_roots"):
        await run(work_of(store, tmp_path, "one"))


async def test_records_of_commands(store: EmbeddedStore, tmp_path: Path) -> None:
    """Who writes now and then has chains of their own, which are sealed like the others."""
    for number in range(5):
        await store.audits.append([Audit(int(NOW * 1000) + number, "command", "done", "rule_added")])
    assert (await run(work_of(store, tmp_path, "one"))).done == 5
    assert len((await store.audits.seals(0, 1))[0].segments) == 5
