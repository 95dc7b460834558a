"""A broker whose lives are counted: from when to when, and how each ended."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.faults.ledger import Life
from tests.support.mosquitto import Mosquitto
from tests.support.waiting import wait_until

NEVER: Final = 86_400

# Not 0, which means the same: mosquitto 2.0.11 then cuts every connection over which it refused a message.
_UNBOUNDED: Final = "max_queued_messages 10000000"


class MortalBroker(Mosquitto):
    """A persistent mosquitto that drops nothing for a slow or absent subscriber.

    It writes its memory to the disk every `autosave` seconds, when it is stopped and when it is told to; what came in since is
    lost with `kill`. The topics in `denied` nobody may publish to.
    """

    def __init__(self, *, autosave: int = 1, denied: Sequence[str] = ()) -> None:
        super().__init__(config_lines=(_UNBOUNDED, f"autosave_interval {autosave}"), persistent=True)
        self.lives: list[Life] = []
        if denied:
            rules = self.folder / "acl"
            # Patterns, because they hold for everybody: `topic` rules are attached to a client when it connects, and mosquitto
            # then drops what comes for a session that it has restored, until its client is back.
            rules.write_text("pattern readwrite #\n" + "".join(f"pattern deny {topic}\n" for topic in denied))
            self.add_config(f"acl_file {rules}")

    async def start(self) -> None:
        """Start it; a new life begins."""
        self.lives.append(Life(int(time.time() * 1000), killed=False))
        await super().start()

    async def kill(self) -> None:
        """End it at once; what it had not written is gone."""
        self.lives[-1] = Life(self.lives[-1].began, killed=True)
        await super().kill()

    async def save(self) -> None:
        """Let it write its memory to the disk, and wait until it has."""
        file = self.folder / "mosquitto.db"
        before = await asyncio.to_thread(_version, file)
        self._signal(signal.SIGUSR1)
        await wait_until(lambda: _version(file) != before, what="mosquitto saved its state")


def _version(file: Path) -> tuple[int, int] | None:
    """Return what differs once the file was written anew; mosquitto writes a new one and renames it."""
    if not file.exists():
        return None
    status = file.stat()
    return status.st_ino, status.st_mtime_ns
