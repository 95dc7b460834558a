"""Fuzzing of the hooks: `python -m tests.faults.fuzz --requests 200000 --seed 1`.

A `companion serve` with accounts, a rule and a good hook key, so that allowing would be possible, gets requests none of which may
be allowed, over real HTTP. The last line is `requests=… allowed=… failed=… unanswered=…`; the exit code is 1 unless nothing was
wrong. What was wrong is shown with its number; `--only NUMBER` sends that one again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker_hooks.hashing import hash_password
from companion.core.model import Account, Kind
from companion.core.rules import Effect, Rule, RuleAction, subject_of_account
from companion.settings import Settings
from companion.stores.embedded import EmbeddedStore
from tests.faults.fuzz_client import fuzz
from tests.faults.fuzz_judge import Verdict
from tests.faults.fuzz_requests import KEY
from tests.faults.fuzz_spoiled import GRANTED, LONG_NAME, LONG_PASSWORD, NAME, PASSWORD
from tests.support.raw_http import exchange
from tests.support.serve import Serving, companion_serve

DEADLINE: Final = 2.0
_NO_LIMITS: Final = (
    *("throttle_failures", "throttle_address_failures", "flapping_connects", "flapping_user_connects"),
    "credential_refused_seconds",
)
"""Who guesses would be refused unseen; here every request shall be seen."""


async def fuzz_service(folder: Path, *, seed: int, numbers: Sequence[int]) -> Verdict:
    """Fuzz a service in this folder and return the verdict, crashes and errors that it has logged among it."""
    data = folder / "data"
    async with EmbeddedStore.open(data) as store:
        accounts = ((NAME, PASSWORD), (LONG_NAME, LONG_PASSWORD))
        await store.accounts.add([Account(name, Kind.DEVICE, name, hash_password(word, 4)) for name, word in accounts])
        await store.rules.add(Rule(subject_of_account(NAME), Effect.ALLOW, RuleAction.PUBLISH, GRANTED))
    settings: dict[str, object] = {name: 0 for name in _NO_LIMITS if name in Settings.model_fields}
    settings |= {"hooks_keys": KEY, "password_cost": 4, "password_waiting": 10_000}
    settings |= {"hooks_deadline": DEADLINE, "password_deadline": DEADLINE / 2, "log_decisions": "none"}
    async with companion_serve(data, "--role", "hooks", **settings) as service:
        verdict = await fuzz(service.hooks_port, seed=seed, numbers=numbers)
        verdict.problems += await problems(service)
    return verdict


async def problems(service: Serving) -> Sequence[str]:
    """Return what the service itself says that went wrong."""
    found = []
    if service.process.returncode is not None:
        found.append(f"the service ended with {service.process.returncode}")
    # A warning may be about what was sent; what is no entry at all has no level.
    found += [f"logged: {one}"[:500] for one in service.entries if one.get("level") not in {"debug", "info", "warning"}]
    metrics = (await exchange(service.ops_port, "GET /metrics HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n")).body
    for line in metrics.decode().splitlines():
        if (
            line.startswith("companion_hook_decisions_total")
            and 'reason="internal"' in line
            and not line.endswith(" 0.0")
        ):
            found.append(line)
    return found


def report(verdict: Verdict, seconds: float) -> str:
    """Return what to show, the summary last."""
    families = ", ".join(f"{name} {count:,}" for name, count in sorted(verdict.families.items()))
    rate = f"{verdict.requests / seconds:,.0f} a second for {seconds:.0f} s"
    return "\n".join((*verdict.wrong, *verdict.problems, f"{families}; {rate}", verdict.summary()))


async def _main(seed: int, numbers: Sequence[int]) -> int:
    with tempfile.TemporaryDirectory(prefix="companion-fuzz-") as folder:
        began = time.monotonic()
        verdict = await fuzz_service(Path(folder), seed=seed, numbers=numbers)
    sys.stdout.write(f"{report(verdict, time.monotonic() - began)}\n")
    return 0 if not (verdict.wrong or verdict.problems) else 1


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, action="append", help="send these requests of the run only")
    arguments = parser.parse_args()
    sys.exit(asyncio.run(_main(arguments.seed, arguments.only or range(1, arguments.requests + 1))))


if __name__ == "__main__":
    main()
