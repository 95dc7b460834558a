"""The cleaner: what has become old enough is archived and removed, collection by collection, as the policies say.

    due documents ──▶ a file, synced, read back, renamed, with its manifest ──▶ only then they are removed, under the fence

So a document is in its collection or in a verified archive, or for a while in both, and never in neither. Wherever a run dies, its
next life goes on: an archive without a manifest is written anew, one with a manifest is what remains to be removed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import msgspec
import structlog

from companion.cleaning import PLATFORM, Policy
from companion.core.errors import Invalid, Permanent
from companion.core.ports import Batch, Removed, Selection
from companion.core.runs import Progress
from companion.job_settings import JobSettings
from companion.settings import Settings
from maintenance.archive.manifest import Manifest
from maintenance.archive.target import Target, target_of
from maintenance.job import Work
from maintenance.pace import Pace

log = structlog.get_logger("maintenance.cleaner")

_DAY: Final = 86_400
_FEW: Final = 1000
"""Of a collection as small as this, everything may go at once."""

_REMEMBERED: Final = 10_000
"""So many batches of an archive are remembered until they are removed, without their lines (about 0.4 KB each)."""

_AHEAD: Final = 4
"""So many batches are read at a time, where it is worth it; as many are worked on meanwhile."""

_AT_ONCE: Final = 8
"""So many removals are asked for at a time, unless there is a rate: the store need not wait for us between two, and may commit them
together."""

_EMBEDDED: Final = ("dead-letters", "presence")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands: in which policy, the limit of age that it began with, and how many of its archive are gone."""

    policy: str = ""
    before: int = 0
    removed: int = 0

    def text(self) -> str:
        """Return it as JSON."""
        return msgspec.json.encode(self).decode()


def policies_of(settings: Settings) -> Mapping[str, Policy]:
    """Return the policies in force by their names: the platform's where the settings say nothing else."""
    ours = PLATFORM if settings.store == "production" else {name: PLATFORM[name] for name in _EMBEDDED}
    return {name: one for name, one in {**ours, **settings.cleaner_policies}.items() if one.days}


def _check_archive(settings: Settings) -> None:
    """Raise `Invalid` where nobody has said where archives are kept: the data folder of a replica may go with it."""
    if settings.store == "production" and settings.cleaner_archive is None:
        raise Invalid(
            "cleaner_archive",
            "none",
            "a folder that all replicas share, s3://bucket/prefix, or archive = false in the policy",
        )


class Cleaner:
    """Archives and removes what is old."""

    name = "cleaner"
    purpose = "archives and removes what has become old enough, as its policies say"
    parameters: Mapping[str, str] = MappingProxyType(
        {
            "policy": "only this one",
            "yes-really": "true: also more of a collection than its policy allows at once",
            "any-time": "true: also outside of the window of a policy",
        }
    )
    schedule = JobSettings(cron="17 2 * * *", jitter=300, grace=6 * 3600, attempts=3, backoff=600)
    lease_seconds = 30.0
    resumes = True

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        """Go through the policies in the order of their names."""
        chosen = _chosen(policies_of(work.settings), work)
        for policy in chosen.values():
            await work.store.documents.check(policy.collection, _selection(policy, 0))
        progress = work.run.progress
        place = msgspec.json.decode(progress.position, type=Place) if progress.position else Place()
        problems: list[str] = []
        target = target_of(work.settings)
        for name, policy in chosen.items():
            if name < place.policy:
                continue
            if name != place.policy:
                place = Place(name, int((work.now() - policy.days * _DAY) * 1000))
            cleaning = _Cleaning(work, name, policy, place, progress, target=target)
            if not cleaning.allowed:
                log.info("not at this time of the day", policy=name, window=policy.window)
                continue
            try:
                async with contextlib.aclosing(cleaning.steps()) as steps:  # type: ignore[type-var]
                    async for progress in steps:
                        yield progress
            except Invalid as problem:
                # The others need not wait for somebody who mends this one.
                problems.append(str(problem))
        if problems:
            raise Permanent("; ".join(problems))
        yield progress


def _chosen(policies: Mapping[str, Policy], work: Work) -> Mapping[str, Policy]:
    wanted = work.run.parameters.get("policy")
    if wanted is not None and wanted not in policies:
        raise Invalid("parameters.policy", wanted, f"one of {', '.join(sorted(policies)) or 'none'}")
    return {name: policies[name] for name in sorted(policies) if wanted in (None, name)}


def _selection(policy: Policy, before: int) -> Selection:
    return Selection(policy.time, before, policy.query, policy.hold)


class _Cleaning:
    """One policy in one run."""

    def __init__(
        self, work: Work, name: str, policy: Policy, place: Place, progress: Progress, *, target: Target
    ) -> None:
        self._work = work
        self._name = name
        self._policy = policy
        self._place = place
        self._selection = _selection(policy, place.before)
        self._documents = work.store.documents
        self._target = target
        self._counts: Counter[str] = Counter(progress.counts)
        self._done = progress.done
        self._total = progress.total or 0
        self._counted = bool(progress.position) and place == msgspec.json.decode(progress.position, type=Place)
        self._pace = Pace(policy.rate, policy.budget)
        self._archived: deque[Batch] = deque()

    @property
    def allowed(self) -> bool:
        """Whether it may work at this time of the day."""
        return bool(self._work.run.parameters.get("any-time")) or self._policy.open_at(self._work.now())

    async def steps(self) -> AsyncIterator[Progress]:
        """Archive and remove; yield after every batch of either."""
        manifest = None
        if self._policy.archive and not self._work.run.dry:
            _check_archive(self._work.settings)
            manifest = await asyncio.to_thread(self._target.find, self._name, self._work.run.id)
        if manifest is None:
            due = await self._count()
            self._total += 0 if self._counted else due
            if self._work.run.dry or not due:
                self._done += due if self._work.run.dry else 0
                self._counts[f"{self._name} due"] += due if self._work.run.dry else 0
                yield self._progress()
                return
            if not self._policy.archive:
                async for progress in self._only_remove():
                    yield progress
                return
            # Whoever ends us has to wait until what is not finished is abandoned.
            async with contextlib.aclosing(self._archive()) as archiving:  # type: ignore[type-var]
                async for found in archiving:
                    if isinstance(found, Manifest):
                        manifest = found
                    yield self._progress()
        if manifest is not None:
            self._counts[f"{self._name} archived"] = manifest.count
            async for progress in self._remove_archived(manifest):
                yield progress

    async def _count(self) -> int:
        due = await self._documents.count_due(self._policy.collection, self._selection)
        total = await self._documents.count(self._policy.collection)
        share = 100 * due / max(total, 1)
        really = bool(self._work.run.parameters.get("yes-really"))
        if due > _FEW and share > self._policy.most and not really and not self._work.run.dry:
            raise Invalid(
                f"cleaner_policies.{self._name}.most",
                f"{share:.0f} % of {self._policy.collection}",
                f"at most {self._policy.most:g} % at once: look at a dry run, then ask with --set yes-really=true",
            )
        return due

    async def _archive(self) -> AsyncIterator[Manifest | None]:
        """Write what is due into a file; yield after every batch, at last the manifest, or nothing when nothing was due."""
        run, fence = self._work.run.id, self._work.term.lease.token
        writing = await asyncio.to_thread(self._target.begin, self._name, run, fence)
        try:
            async with contextlib.aclosing(self._due(lines=True)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    await asyncio.to_thread(writing.add, batch)
                    if batch.mark and len(self._archived) < _REMEMBERED:
                        self._archived.append(replace(batch, lines=b"", ids=()))
                    self._counts[f"{self._name} archived"] = writing.count
                    yield None
                    await self._wait(batch.count)
            if writing.count:
                yield await asyncio.to_thread(
                    lambda: writing.finish(
                        policy=self._name,
                        run=run,
                        fence=fence,
                        collection=self._policy.collection,
                        before=self._place.before,
                        now=int(self._work.now() * 1000),
                    )
                )
        finally:
            await asyncio.to_thread(writing.abandon)

    async def _remove_archived(self, manifest: Manifest) -> AsyncIterator[Progress]:
        """Remove what is in the archive: what this life has read and nobody has rewritten as it is, the rest after a comparison."""
        async with contextlib.aclosing(self._remove_remembered()) as removing:  # type: ignore[type-var]
            async for progress in removing:
                yield progress
        if self._place.removed >= manifest.count:
            return
        lines = self._target.lines(manifest, self._policy.batch, self._place.removed)

        def read() -> asyncio.Task[Batch | None]:
            return asyncio.ensure_future(asyncio.to_thread(self._next, manifest.collection, lines))

        reading = read()
        try:
            while (batch := await reading) is not None:
                # While these are removed the next ones are read.
                reading = read()
                await self._remove(batch, archived=True)
                yield self._progress()
                await self._wait(batch.count)
        finally:
            await asyncio.gather(reading, return_exceptions=True)

    async def _remove_remembered(self) -> AsyncIterator[Progress]:
        asked: deque[tuple[Batch, asyncio.Task[Removed | None]]] = deque()
        at_once = _AT_ONCE if self._policy.rate is None else 1

        def ask() -> None:
            batch = self._archived.popleft()
            removal = self._documents.remove_as_read(
                self._policy.collection, self._selection, batch, self._work.term.lease
            )
            asked.append((batch, asyncio.ensure_future(removal)))

        try:
            while self._archived or asked:
                while self._archived and len(asked) < at_once:
                    ask()
                batch, removal = asked.popleft()
                if (removed := await removal) is None:
                    # Somebody has rewritten something: the rest is compared. Of what is asked for already nothing may be left then.
                    return
                self._note(batch, removed, archived=True)
                yield self._progress()
                await self._wait(batch.count)
        finally:
            await asyncio.gather(*(removal for _, removal in asked), return_exceptions=True)

    def _next(self, collection: str, lines: Iterator[bytes]) -> Batch | None:
        some = next(lines, None)
        return None if some is None else self._documents.read(collection, some)

    async def _only_remove(self) -> AsyncIterator[Progress]:
        async with contextlib.aclosing(self._due(lines=False)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                await self._remove(batch, archived=False)
                yield self._progress()
                await self._wait(batch.count)

    async def _due(self, *, lines: bool) -> AsyncIterator[Batch]:
        """Yield what is due, a batch at a time, until the time is used up; while some are worked on the next ones are read."""
        policy = self._policy

        def read(after: str) -> asyncio.Task[Sequence[Batch]]:
            return asyncio.ensure_future(
                self._documents.due_batches(
                    policy.collection, self._selection, after, policy.batch, _AHEAD, lines=lines
                )
            )

        reading = read("")
        try:
            while batches := await reading:
                reading = read(batches[-1].last)
                for batch in batches:
                    if self._pace.over:
                        return
                    yield batch
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _remove(self, batch: Batch, *, archived: bool) -> None:
        removed = await self._documents.remove(
            self._policy.collection, self._selection, batch, self._work.term.lease, unchanged=archived
        )
        self._note(batch, removed, archived=archived)

    def _note(self, batch: Batch, removed: Removed, *, archived: bool) -> None:
        self._place = replace(self._place, removed=self._place.removed + batch.count)
        self._done += batch.count
        # What is gone already was removed by an earlier life, which did not come to note it.
        self._counts[f"{self._name} removed"] += batch.count - removed.changed if archived else removed.count
        self._counts[f"{self._name} changed meanwhile"] += removed.changed

    async def _wait(self, count: int) -> None:
        await self._pace.after(count)
        while self._pace.ahead and not self._pace.over:
            await self._pace.after(0)

    def _progress(self) -> Progress:
        return Progress(self._done, max(self._total, self._done), dict(+self._counts), self._place.text())
