"""Entries on the disk, also those of processes that were killed."""

from __future__ import annotations

import io
from pathlib import Path

from companion.core.chain import Chain, Entry
from companion.spool import Spool
from tests.support.entities import audit
from tests.support.programs import program
from tests.support.traces import lines

MOST = 1_000_000

WRITER = """
import sys
from pathlib import Path
from companion.core.chain import Chain
from companion.core.model import Audit
from companion.spool import Spool

spool, chain, number = Spool(Path(sys.argv[1]), 10**9), Chain(), 0
while True:
    entries = chain.seal([Audit(number + n, "auth", "deny", "no_rule", detail="x" * 200) for n in range(5)])
    assert spool.keep(entries)
    number += 5
    print(number, flush=True)
"""


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def entries(count: int, chain: Chain | None = None) -> list[Entry]:
    return list((chain or Chain()).seal([audit(number, detail=f"{number} é\n") for number in range(count)]))


def all_of(spool: Spool, limit: int = 3) -> list[Entry]:
    found: list[Entry] = []
    while some := spool.next(limit):
        found += some
        spool.delivered(len(some))
    return found


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """Entries come back as they were, in order, and the file goes with the last."""
    spool, wanted = Spool(tmp_path / "spool", MOST), entries(10)
    assert spool.next(5) == []
    assert spool.keep(wanted[:4])
    assert spool.keep(wanted[4:])
    assert spool.waiting == 10
    (file,) = (tmp_path / "spool").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert spool.next(3) == spool.next(3) == wanted[:3]
    assert all_of(spool) == wanted
    assert list((tmp_path / "spool").iterdir()) == []
    assert spool.keep(wanted)
    assert all_of(spool, 100) == wanted


def test_it_is_bounded(tmp_path: Path) -> None:
    """A batch that does not fit is not kept at all."""
    spool, wanted = Spool(tmp_path, 3000), entries(20)
    assert spool.keep(wanted[:5])
    assert not spool.keep(wanted)
    assert all_of(spool) == wanted[:5]


def test_only_what_is_abandoned_is_taken_over(tmp_path: Path) -> None:
    """A file belongs to its process until that is gone; it is delivered by one other."""
    first, wanted = Spool(tmp_path, MOST), entries(5)
    first.keep(wanted)
    second = Spool(tmp_path, MOST)
    assert list(second.abandoned()) == []
    first.close()
    (left,) = (spool for spool in second.abandoned())
    assert left.waiting == 0  # let go of when the generator went on
    for left in second.abandoned():
        assert list(Spool(tmp_path, MOST).abandoned()) == []
        assert all_of(left) == wanted
    assert files(tmp_path) == []


def test_what_is_not_delivered_stays(tmp_path: Path) -> None:
    """A file that is given up half-way comes again from its beginning: the store knows what it has."""
    first, wanted = Spool(tmp_path, MOST), entries(5)
    first.keep(wanted)
    first.close()
    for left in Spool(tmp_path, MOST).abandoned():
        left.delivered(len(left.next(2)))
    for left in Spool(tmp_path, MOST).abandoned():
        assert all_of(left) == wanted


def test_torn_and_broken_lines(tmp_path: Path, logged: io.StringIO) -> None:
    """A torn end is no record; a line that cannot be read is told and does not hold up the others."""
    first, wanted = Spool(tmp_path, MOST), entries(4)
    first.keep(wanted)
    first.close()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([whole[0], b"{broken\n", whole[1], whole[2], whole[3][:-20]]))
    for left in Spool(tmp_path, MOST).abandoned():
        assert left.waiting == 4
        assert all_of(left) == wanted[:3]
    assert [line["event"] for line in lines(logged)] == ["a line of a spool cannot be read: its record is lost"]
    assert files(tmp_path) == []
    file.write_bytes(whole[0][:-5])
    assert list(Spool(tmp_path, MOST).abandoned()) == []
    assert files(tmp_path) == []


async def test_killed_in_the_middle(tmp_path: Path) -> None:
    """Whatever a process said it had kept is there after `kill -9`, in order and whole, and at most the batch beyond it."""
    for _ in range(3):
        async with program(WRITER, str(tmp_path)) as writer:
            for _ in range(20):
                said = int(await writer.line())
            writer.kill()
            said = max([said, *map(int, await writer.rest())])
            await writer.ended()
        for left in Spool(tmp_path, MOST).abandoned():
            found = all_of(left, 1000)
            assert [one.number for one in found] == list(range(1, len(found) + 1))
            assert said <= len(found) <= said + 5
            assert all(one.audit.at == one.number - 1 for one in found)
    assert files(tmp_path) == []
