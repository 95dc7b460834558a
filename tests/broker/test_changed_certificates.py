"""Certificates of our own ports that change while connections run: when they are taken, and which are kept out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence

import pytest

from tests.support.certificates import Issued
from tests.support.eventually import eventually
from tests.support.listeners import ALLOW, REFUSED, House, asked, house, open_house
from tests.support.raw_http import RawConnection
from tests.support.waiting import wait_until

__all__ = ["house"]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_certificate_changes_while_connections_run(house: House, workers: str) -> None:
    """New connections, on every worker and both ports, get the new one; those that there are go on, and no request fails."""
    async with open_house(house, "--workers", workers) as service:
        assert await house.shown(service.hooks_port) == {house.first.der}
        async with contextlib.AsyncExitStack() as stack:
            kept = [await stack.enter_async_context(house.connected(service.hooks_port)) for _ in range(4)]
            stop = asyncio.Event()

            async def go_on(connection: RawConnection) -> int:
                count = 0
                while not stop.is_set():
                    assert await asked(connection) == (200, ALLOW)
                    count += 1
                    await asyncio.sleep(0.01)
                return count

            going = [asyncio.create_task(go_on(connection)) for connection, _ in kept]
            second = house.ca.issue(days=2)
            second.write(house.cert, house.key)

            async def changed() -> bool:
                ports = (service.hooks_port, service.ops_port)
                return [await house.shown(port) for port in ports] == [{second.der}] * 2

            await eventually(changed, 60, what="every new connection is shown the new certificate")
            assert {certificate for _, certificate in kept} == {house.first.der}
            assert not any(task.done() for task in going)
            stop.set()
            async with asyncio.timeout(30):
                assert min(await asyncio.gather(*going)) > 1
        assert await house.metric("companion_tls_certificate_expiry_timestamp_seconds") == second.ends
        assert await house.metric("companion_tls_certificate_refused") == 0
        assert len(service.logged("certificate changed", port="hooks")) == 1


async def test_sighup_and_reload_look_at_once(house: House) -> None:
    """They do not wait for the next look; a worker that starts later has what was good, whatever the files hold by then."""
    async with open_house(house, "--workers", "2", tls_poll=3600) as service:
        second, third = house.ca.issue(), house.ca.issue()
        second.write(house.cert, house.key)
        status, text = await house.ops("POST", "/reload")
        assert (status, "certificate of hooks" in json.loads(text)["parts"]) == (200, True)
        assert await house.shown(service.hooks_port) == {second.der}
        third.write(house.cert, house.key)
        service.hang_up()
        await service.logs("certificate changed", 2, port="hooks")

        async def changed() -> bool:
            return await house.shown(service.hooks_port) == {third.der}

        await eventually(changed, 60, what="the third is shown")
        house.key.write_bytes(b"x")
        os.kill(service.children[0], 9)
        await service.logs("worker started", 3)
        assert await house.shown(service.hooks_port) == {third.der}


async def test_a_wrong_pair_is_kept_out(house: House) -> None:
    """Half a pair, half a file, no file, what has ended: refused, told, counted; the old one stays until a good one comes."""
    async with open_house(house) as service:
        other, ended, good = house.ca.issue(), house.ca.issue(days=-1), house.ca.issue(days=3)
        wrong: Sequence[tuple[str, bytes, bytes]] = (
            ("hooks_tls_key", other.certificate, house.first.key),
            ("hooks_tls_key", house.first.certificate, other.key),
            ("hooks_tls_cert", other.certificate[:200], other.key),
            ("hooks_tls_cert", b"", other.key),
            ("hooks_tls_key", other.certificate, other.key[:100]),
            ("hooks_tls_cert", ended.certificate, ended.key),
        )
        for number, (field, certificate, key) in enumerate(wrong, 1):
            Issued(certificate, key).write(house.cert, house.key)
            status, text = await house.ops("POST", "/reload")
            assert (number, status, json.loads(text)["field"]) == (number, 422, field)
            assert await house.shown(service.hooks_port) == {house.first.der}
            assert await house.metric("companion_tls_certificate_refused") == 1
        house.key.unlink()
        Issued(good.certificate, b"").write(house.cert, house.folder / "elsewhere")

        def missed() -> bool:
            told = service.logged(REFUSED, port="hooks")
            return any(one["problem"].startswith("hooks_tls_key") and "No such file" in one["problem"] for one in told)

        await wait_until(missed, 60, "the key is missed")
        assert await house.ask() == (200, ALLOW)
        good.write(house.cert, house.key)

        async def changed() -> bool:
            return await house.shown(service.hooks_port) == {good.der}

        await eventually(changed, 60, what="the good one is shown")
        assert await house.metric("companion_tls_certificate_refused") == 0
        assert await house.metric("companion_tls_certificate_expiry_timestamp_seconds") == good.ends
        assert "PRIVATE KEY" not in json.dumps(service.entries)


async def test_what_stays_wrong_is_told_once(house: House) -> None:
    """However often it is looked at: those of the other port, which are looked at as often, change five times meanwhile."""
    cert, key = house.folder / "ops.pem", house.folder / "ops.key"
    house.ca.issue().write(cert, key)
    async with open_house(house, ops_tls_cert=cert, ops_tls_key=key) as service:
        house.key.unlink()
        await service.logs(REFUSED, port="hooks")
        for number in range(1, 6):
            house.ca.issue().write(cert, key)
            await service.logs("certificate changed", number, port="ops")
        assert len(service.logged(REFUSED, port="hooks")) == 1
        assert await house.metric("companion_tls_certificate_refused") == 1
        assert await house.shown(service.hooks_port) == {house.first.der}
