"""The check of the audit: its seals, its chains, and what may be missing by now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from companion.core.ports import Audits
from companion.core.seals import ChainCheck, Report, Seal, SealCheck, Segment
from companion.settings import Settings
from maintenance.cleaner import policies_of

_DAY_MS: Final = 86_400_000
_ON_ITS_WAY_MS: Final = 3_600_000
_ENTRIES: Final = 1000
_CHAINS: Final = 10_000
_SEALS: Final = 200
_COLLECTION: Final = "mqtt_audits"


async def cut_of(audits: Audits, settings: Settings, now: int) -> int:
    """Return the time (Unix milliseconds) before which records may have been removed, by age or because there were too many."""
    ages = [one.days for one in policies_of(settings).values() if one.collection.rpartition(".")[2] == _COLLECTION]
    cut = now - int(min([settings.retention_audits, *ages]) * _DAY_MS)
    count, oldest = await audits.extent()
    return max(cut, oldest) if count >= settings.retention_audits_count else cut


async def read_seals(audits: Audits, report: Report, roots: Mapping[int, str]) -> SealCheck:
    """Check all seals, and return what they cover."""
    check = SealCheck(report, roots)
    after = 0
    while seals := await audits.seals(after, _SEALS):
        check.take(seals)
        after = seals[-1].number
    check.finish()
    return check


class NewSegments:
    """Goes through what has come into the chains since the seals; iterate over it, then take `segments`."""

    def __init__(self, audits: Audits, report: Report, sealed: SealCheck, *, cut: int, now: int) -> None:
        self.segments: list[Segment] = []
        self._audits = audits
        self._report = report
        self._sealed = sealed.segments
        self._cut = cut
        self._young = now - _ON_ITS_WAY_MS

    async def __aiter__(self) -> AsyncIterator[None]:
        """Yield after every batch."""
        after = ""
        while states := await self._audits.chains(after, _CHAINS):
            for state in states:
                known = self._sealed.get(state.chain, ())
                last = known[-1] if known else None
                if last is not None and state.last <= last.last:
                    continue
                check = ChainCheck(
                    state.chain,
                    self._report,
                    after=0 if last is None else last.last,
                    before="" if last is None else last.head,
                    cut=self._cut,
                    young=self._young,
                )
                async for _ in _fed(self._audits, check, state.chain, 0 if last is None else last.last):
                    yield
                if (segment := check.finish()) is not None:
                    self.segments.append(segment)
            after = states[-1].chain


async def check_seal(audits: Audits, report: Report, seal: Seal, *, cut: int) -> AsyncIterator[None]:
    """Hold the segments of one seal against what is there; yield after every batch."""
    for one in seal.segments:
        check = ChainCheck(one.chain, report, segments=[one], after=one.first - 1, before=one.before, cut=cut)
        async for _ in _fed(audits, check, one.chain, one.first - 1, one.last):
            yield
        check.finish()


async def check_all(audits: Audits, report: Report, sealed: SealCheck, *, cut: int, now: int) -> AsyncIterator[None]:
    """Hold everything against the seals; yield after every batch."""
    waiting = dict(sealed.segments)
    after = ""
    while states := await audits.chains(after, _CHAINS):
        for state in states:
            segments: Sequence[Segment] = waiting.pop(state.chain, ())
            check = ChainCheck(state.chain, report, segments=segments, cut=cut, young=now - _ON_ITS_WAY_MS)
            async for _ in _fed(audits, check, state.chain, 0):
                yield
            check.finish()
        after = states[-1].chain
    for chain, segments in sorted(waiting.items()):
        ChainCheck(chain, report, segments=segments, cut=cut).finish()
    if sealed.first is not None:
        report.unchained = await audits.unchained(sealed.first.at)
        if report.unchained:
            report.wrong(
                "records outside of a chain", f"{report.unchained} came after the first seal", report.unchained
            )


async def _fed(
    audits: Audits, check: ChainCheck, chain: str, after: int, last: int | None = None
) -> AsyncIterator[None]:
    """Give a check the entries of its chain, up to the number `last`; yield after every batch."""
    while not check.pending and (entries := await audits.entries(chain, after, _ENTRIES)):
        check.take(one for one in entries if last is None or one.number <= last)
        after = entries[-1].number
        yield
        if last is not None and after >= last:
            return
