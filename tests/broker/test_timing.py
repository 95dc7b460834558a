"""No answer tells whether a name exists: neither by its bytes nor by what it costs.

What is measured is processor time of the process, which other programs on the machine take nothing of, and a difference has to show
in several measurements in a row: one of them may be disturbed, a real difference is there each time.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from broker_hooks.hashing import hash_password
from companion.core.model import Account, Kind
from tests.conftest import Note
from tests.support.eventually import eventually
from tests.support.raw_http import exchange, request
from tests.support.service import HOOK_KEY, Service, serving

COST = 9
LOGINS = 20
MEASUREMENTS = 5
CLOSE = 0.1


def body_of(username: str, password: str) -> bytes:
    return f'{{"username":"{username}","password":"{password}","clientid":"c1","peerhost":"10.0.0.1"}}'.encode()


async def cost_of(service: Service, username: str, password: str) -> float:
    """Return the processor time that a login takes all threads of this process."""
    started = time.process_time()
    answer = await exchange(service.hooks_port, request("/mqtt/auth", body_of(username, password), key=HOOK_KEY))
    seconds = time.process_time() - started
    assert answer.body == b'{"result":"deny"}'
    return seconds


async def measured(service: Service, run: int) -> float:
    """Return how far the medians of unknown users and of wrong passwords lie apart, in parts of the smaller one."""
    costs: dict[str, list[float]] = {"device": [], "nobody": []}
    for number in range(LOGINS):
        for name in sorted(costs, reverse=number % 2 == 1):
            costs[name].append(await cost_of(service, f"{name}-{number}", f"wrong-{run}-{number}"))
    medians = [statistics.median(found) for found in costs.values()]
    return max(medians) / min(medians) - 1


async def test_an_unknown_user_costs_what_a_wrong_password_does(tmp_path: Path, note: Note) -> None:
    """The medians lie within ten percent of each other, in turn, in one run."""
    hashed = hash_password("secret", COST)
    accounts = [Account(f"device-{number}", Kind.DEVICE, "x", hashed) for number in range(LOGINS)]
    async with serving(
        tmp_path, password_cost=COST, password_deadline=20.0, hooks_deadline=30.0, throttle_failures=0
    ) as service:
        await service.store.accounts.add(accounts)
        apart = 1.0
        for run in range(MEASUREMENTS):
            apart = await measured(service, run)
            if apart < CLOSE:
                break
        note(f"unknown user against wrong password: {apart:.1%} apart in processor time")
        assert apart < CLOSE


async def test_the_same_bytes(tmp_path: Path) -> None:
    """Unknown, wrong, remembered as either, and locked out: but for the date no byte of an answer differs."""
    async with serving(tmp_path, throttle_failures=3) as service:
        await service.store.accounts.add([Account("alice", Kind.DEVICE, "x", hash_password("secret", 4))])
        answers = set()
        for name in ("alice", "nobody"):
            for password in ("wrong", "wrong", "other", "secret!", "locked out by now"):
                answer = await exchange(
                    service.hooks_port, request("/mqtt/auth", body_of(name, password), key=HOOK_KEY)
                )
                headers = tuple((field, value) for field, value in answer.headers.items() if field.lower() != "date")
                answers.add((answer.status, headers, answer.body))
        assert len(answers) == 1
        assert await service.metric("companion_lockouts_total", scope="account") == 2


async def test_a_repetition_tells_nothing_either(tmp_path: Path) -> None:
    """What is answered from memory comes on a grid of time: never sooner than that, whether the name exists or not."""
    async with serving(tmp_path, throttle_failures=0) as service:
        await service.store.accounts.add([Account("alice", Kind.DEVICE, "x", hash_password("secret", 4))])
        for name in ("alice", "nobody"):
            await service.login(name, "wrong")
            times = []
            for _ in range(5):
                started = time.monotonic()
                await service.login(name, "wrong")
                times.append(time.monotonic() - started)
            assert min(times) > 0.01

        async def remembered() -> bool:
            return await service.metric("companion_cache_lookups_total", cache="refused", outcome="hit") == 10

        await eventually(remembered, what="all were answered from memory")
