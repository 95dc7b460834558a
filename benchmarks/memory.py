"""What a process of the hooks takes for everybody it remembers: `python -m benchmarks.memory`.

Devices log in with a password and publish once, one after another, in this process and without HTTP: afterwards each of them has an
account, a verified password, a policy, and the word that no token's session has to be ended, all in the caches. The memory of the
process before and after is compared with the estimate by which the caches are bounded.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import _traffic
from benchmarks._options import parser_of
from benchmarks._report import print_json, print_table
from broker_hooks.directory import Directory
from broker_hooks.granting import Granting
from broker_hooks.password_pool import PasswordPool
from broker_hooks.passwords import PasswordCredential
from broker_hooks.revoked import Revoked
from broker_hooks.verified import VerifiedCredentials
from companion.background import run
from companion.core.model import Access, Account, Action, Allow, Connect, Kind
from companion.core.password_hashes import plain
from companion.metrics import Metrics
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore

_AT_ONCE: Final = 64
_CACHES: Final = ("account", "policy", "credential", "sessionless")
_MEGABYTE: Final = 1e6


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--principals", type=int, default=100_000, help="devices that are remembered")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="companion-bench-") as folder:
        run(_measure(Path(folder), options.principals, as_json=options.json))


async def _measure(folder: Path, count: int, *, as_json: bool) -> None:
    metrics, settings = Metrics(), Settings()
    async with EmbeddedStore.open(folder) as store:
        for rule in _traffic.RULES:
            await store.rules.add(rule)
        # The secret itself in place of its hash: what is remembered is the same, and bcrypt would take an hour.
        secret = plain(_traffic.PASSWORD)
        for start in range(0, count, 10_000):
            numbers = range(start, min(count, start + 10_000))
            await store.accounts.add(
                [Account(_name(number), Kind.DEVICE, f"{number:024x}", secret) for number in numbers]
            )
        revoked = Revoked(store.revocations, metrics, seconds=86_400)
        directory = Directory(store, metrics, revoked, entries=count, seconds=86_400, size=settings.cache_bytes)
        pool = PasswordPool(2, _AT_ONCE, 60.0, metrics)
        verified = VerifiedCredentials(
            metrics, key="k" * 32, deadline=60.0, entries=count, seconds=86_400, refused_seconds=0
        )
        credential = PasswordCredential(
            directory, pool, verified, cost=4, max_cost=14, granting=Granting({}, superusers=False)
        )
        before = _memory()
        for start in range(0, count, _AT_ONCE):
            names = [_name(number) for number in range(start, min(count, start + _AT_ONCE))]
            await asyncio.gather(*(_connect_and_publish(credential, directory, name) for name in names))
        took = _memory() - before
        await verified.close()
        pool.close()
    entries = {name: _sample(metrics, "companion_cache_entries", name) for name in _CACHES}
    weights = {name: _sample(metrics, "companion_cache_bytes", name) for name in _CACHES}
    print_table(
        f"{count} devices remembered: {took / _MEGABYTE:.1f} MB",
        ("entries", "estimated MB"),
        [(name, f"{entries[name]:,.0f}", f"{weights[name] / _MEGABYTE:.1f}") for name in _CACHES],
    )
    print(f"{took / count:,.0f} bytes each; estimated {sum(weights.values()) / count:,.0f}.")
    if as_json:
        print_json(
            {"memory_principals": count, "memory_megabytes": took / _MEGABYTE, "memory_bytes_each": took / count}
        )


def _name(number: int) -> str:
    return f"device-{number:08}"


async def _connect_and_publish(credential: PasswordCredential, directory: Directory, name: str) -> None:
    # Texts of their own, as every request brings them.
    login = await credential.decide(Connect(_copy(name), _copy(name), _traffic.PASSWORD, "10.0.7.21"))
    access = Access(Action.PUBLISH, f"devices/{name}/telemetry/temperature", _copy(name), _copy(name), "10.0.7.21")
    decisions: Sequence[object] = (login, await directory.decide(access))
    if not all(isinstance(decision, Allow) for decision in decisions):
        raise RuntimeError(f"not allowed: {decisions}")


def _copy(text: str) -> str:
    return text.encode().decode()


def _memory() -> int:
    """Return the resident memory of this process in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _sample(metrics: Metrics, name: str, cache: str) -> float:
    return metrics.registry.get_sample_value(name, {"cache": cache}) or 0.0


if __name__ == "__main__":
    main()
