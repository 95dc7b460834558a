"""The port `Proofs`."""

from __future__ import annotations

import asyncio

from companion.core.ports import Proofs

PORTS = {"proofs"}


class Having:
    """A store with proofs."""

    proofs: Proofs


async def test_what_lies_there(store: Having, other: Having) -> None:
    """What one process leaves the other finds, byte by byte, and the newest of it; nothing lies under other names."""
    everything = bytes(range(256))
    await store.proofs.put("a", everything, 60)
    assert await other.proofs.get("a") == everything
    await other.proofs.put("a", b"", 60)
    assert await store.proofs.get("a") == b""
    assert await store.proofs.get("b") is None


async def test_it_ends(store: Having) -> None:
    """After its time nothing lies there any more."""
    await store.proofs.put("a", b"proof", 0.2)
    await store.proofs.put("b", b"proof", 60)
    await asyncio.sleep(0.4)
    assert await store.proofs.get("a") is None
    assert await store.proofs.get("b") == b"proof"
