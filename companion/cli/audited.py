"""What a command changes is recorded in the audit, with who asked for it; while the store is away, on the disk."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from companion.background import run
from companion.cli.context import settings
from companion.core.chain import Chain, Entry
from companion.core.errors import CompanionError, Permanent
from companion.core.model import Audit
from companion.core.ports import Store
from companion.settings import Settings
from companion.spool import FOLDER, Spool
from companion.stores.opening import open_store

T = TypeVar("T")

_BATCH: Final = 1000


def done(reason: str, *, username: str = "", rule: str = "", detail: str = "") -> Audit:
    """Return the record of something that a command has done."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "somebody without a name"
    return Audit(
        int(time.time() * 1000),
        "command",
        "done",
        reason,
        username=username,
        rule=rule,
        detail=detail,
        source=f"command by {who} on {socket.gethostname()}",
    )


def with_audited_store(work: Callable[[Store], Awaitable[T]], records: Callable[[T], Sequence[Audit]]) -> T:
    """Open the store, do the work, record what came of it, close the store."""
    current = settings()

    async def main() -> T:
        async with open_store(current) as store:
            result = await work(store)
            entries = list(Chain().seal(records(result)))
            try:
                while entries:
                    await store.audits.keep(entries[:_BATCH])
                    del entries[:_BATCH]
            except CompanionError as problem:
                keep_on_disk(current, entries, problem)
            return result

    return run(main())


def keep_on_disk(current: Settings, entries: Sequence[Entry], problem: CompanionError) -> None:
    """Keep records for the hooks of this data folder to deliver. Raises `Permanent` when that cannot be either."""
    spool = Spool(current.data_dir / FOLDER, current.audit_spool_bytes)
    try:
        if not spool.keep(entries):
            raise Permanent(f"it is done, but not recorded: {problem}")
    except OSError as failed:
        raise Permanent(f"it is done, but not recorded: {problem}; {failed.strerror or failed}") from None
    finally:
        spool.close()
