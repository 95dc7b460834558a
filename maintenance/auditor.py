"""The auditor: seals the chains of the audit every day, holds yesterday's seal against what is there, and says what is wrong.

    what has come since the last seal, checked ──▶ a seal in the store ──▶ its root in the file and in the log ──▶ the seal before

Killed anywhere, the next life finds the seal of its run, or makes it, and writes what the file lacks. A run that finds something
wrong fails, with what it is in its error; the seal is made all the same, for it proves what is there from now on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import structlog

from companion.core.errors import Invalid, Permanent
from companion.core.runs import Progress
from companion.core.seals import Report, Seal, SealCheck
from companion.job_settings import JobSettings
from maintenance import roots
from maintenance.audit_check import NewSegments, check_all, check_seal, cut_of, read_seals
from maintenance.job import Work

log = structlog.get_logger("maintenance.auditor")

_FORGET: Final = 1000
_NAMED: Final = 3


class Auditor:
    """Seals and checks the audit."""

    name = "auditor"
    purpose = "seals the chains of audit records and checks what was sealed the day before"
    parameters: Mapping[str, str] = MappingProxyType({"all": "true: check everything, not only the seal before"})
    schedule = JobSettings(cron="7 1 * * *", jitter=300, grace=12 * 3600, attempts=2, backoff=600)
    lease_seconds = 30.0
    resumes = True

    async def batches(self, work: Work) -> AsyncIterator[Progress]:
        """Check what is new, seal it, check what was sealed before."""
        everything = _flag(work.run.parameters.get("all", False))
        audits, report, now = work.store.audits, Report(), int(work.now() * 1000)
        path = roots.file_of(work.settings)
        kept = await asyncio.to_thread(roots.read, path)
        sealed = await read_seals(audits, report, kept)
        cut = await cut_of(audits, work.settings, now)
        ours = sealed.last is not None and sealed.last.run == work.run.id
        if not ours:
            new = NewSegments(audits, report, sealed, cut=cut, now=now)
            async for _ in new:
                yield _progress(report)
            if not work.run.dry:
                # What is new stands in the seal, so what the check beneath looks at is what was sealed before.
                await self._seal(work, sealed, new, now)
                yield _progress(report)
        if not work.run.dry:
            await self._publish(work, kept)
        # Of its own seal, which an earlier life of this run has made, nobody has told what was wrong.
        last = [] if sealed.last is None else [sealed.last]
        last += await _before(work, sealed) if ours else []
        steps = check_all(audits, report, sealed, cut=cut, now=now) if everything else _each(work, report, last, cut)
        async with contextlib.aclosing(steps):  # type: ignore[type-var]
            async for _ in steps:
                yield _progress(report)
        if not work.run.dry:
            while await audits.forget_salts(_FORGET):
                yield _progress(report)
        work.metrics.audits.problems.set(report.count)
        yield _progress(report)
        if report.count:
            named = "; ".join(f"{one.where}: {one.what}" for one in report.problems[:_NAMED])
            log.error("the audit is not what it was", problems=report.count, first=named)
            raise Permanent(f"{report.count} problems in the audit ({named}): companion audit verify shows them")

    async def _seal(self, work: Work, sealed: SealCheck, new: NewSegments, now: int) -> None:
        last = sealed.last
        number, previous = (1, "") if last is None else (last.number + 1, last.root)
        seal = Seal(number, now, work.run.id, previous, tuple(new.segments)).closed()
        if not work.term.valid or not await work.store.audits.add_seal(seal):
            raise Permanent(f"seal {number} was made by another process")

    async def _publish(self, work: Work, kept: Mapping[int, str]) -> None:
        """Write into the file, and then into the log, the roots that it lacks."""
        after = max(kept, default=0)
        while seals := await work.store.audits.seals(after, _FORGET):
            try:
                await asyncio.to_thread(roots.append, roots.file_of(work.settings), seals)
            except OSError as problem:
                raise Invalid(
                    "audit_roots", str(roots.file_of(work.settings)), f"a file to write to ({problem})"
                ) from None
            for seal in seals:
                log.info("the audit is sealed", seal=seal.number, root=seal.root, chains=len(seal.segments))
            after = seals[-1].number


async def _before(work: Work, sealed: SealCheck) -> Sequence[Seal]:
    """Return the seal before the last, if there is one."""
    number = 0 if sealed.last is None else sealed.last.number
    return await work.store.audits.seals(number - 2, 1) if number > 1 else []


async def _each(work: Work, report: Report, seals: Sequence[Seal], cut: int) -> AsyncIterator[None]:
    for seal in seals:
        async for _ in check_seal(work.store.audits, report, seal, cut=cut):
            yield


def _progress(report: Report) -> Progress:
    return Progress(report.checked, None, dict(report.counts()))


def _flag(value: object) -> bool:
    if value in (True, False, "true", "false"):
        return value in (True, "true")
    raise Invalid("parameters.all", value, "true or false")
