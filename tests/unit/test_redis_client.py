"""Redis in every form that it is run in, and what is said when it cannot serve."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import redis as blocking

from companion.core.errors import Invalid, Permanent, Transient
from companion.core.ports import Held, Lease
from companion.stores.redis import RedisConfig, open_redis
from companion.stores.redis.leases import RedisLeases
from tests.support.certificates import make_certificate
from tests.support.entities import change
from tests.support.eventually import eventually
from tests.support.mosquitto import free_port
from tests.support.proxy import proxied
from tests.support.redis import RedisPorts, RedisServer, opened, redis_server


async def use(ports: RedisPorts) -> None:
    """Use every port once."""
    assert isinstance(await ports.leases.acquire("work", "a", 60), Lease)
    assert isinstance(await ports.leases.acquire("work", "b", 60), Held)
    assert await ports.counters.add("key", 60) == 1
    await ports.inbox.append([change("e1")])
    (item,) = await ports.inbox.read(0, 10)
    await ports.inbox.acknowledge([(item.position, 1)])
    assert await ports.inbox.backlog(0) == 0
    await ports.checkpoints.save("reader", "1", 1)
    assert await ports.checkpoints.load("reader") == "1"
    words = ports.notices.follow()
    assert await anext(words) == ()
    await words.aclose()  # type: ignore[attr-defined]
    assert await ports.client.trouble() is None


async def test_a_cluster(tmp_path: Path) -> None:
    """The keys that are used together lie together, so a cluster serves every port."""
    async with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        with blocking.Redis(port=server.port) as admin:
            admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

            async def ready() -> bool:
                return b"cluster_state:ok" in admin.execute_command("CLUSTER", "INFO")

            await eventually(ready, what="the cluster is up")
        async with opened(server.url, "p", mode="cluster") as ports:
            await use(ports)


async def test_behind_a_sentinel(tmp_path: Path) -> None:
    """The Sentinels are asked who the master is."""
    port = free_port()
    async with redis_server(tmp_path / "master") as server:
        config = tmp_path / "sentinel.conf"
        config.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {server.port} 1\n")
        sentinel = await asyncio.create_subprocess_exec(
            "redis-server", str(config), "--sentinel", stdout=asyncio.subprocess.DEVNULL
        )
        try:
            async with opened(f"redis://127.0.0.1:{port}/0", "p", mode="sentinel") as ports:

                async def found() -> bool:
                    return await ports.client.trouble() is None

                await eventually(found, what="the Sentinel knows the master")
                await use(ports)
        finally:
            sentinel.kill()
            await sentinel.wait()


async def test_tls(tmp_path: Path) -> None:
    """Over TLS with a certificate of one's own authority; without it the connection is refused."""
    certificate, key = make_certificate(tmp_path, "127.0.0.1")
    port = free_port()
    options: tuple[str, ...] = (
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
    )
    options += ("--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no")
    async with redis_server(tmp_path / "data", *options):
        url = f"rediss://127.0.0.1:{port}/0"
        async with opened(url, "p", ca_file=certificate) as ports:
            await use(ports)
        async with opened(url, "p") as ports:
            assert "CERTIFICATE_VERIFY_FAILED" in str(await ports.client.trouble())


async def test_a_user_with_rights(tmp_path: Path) -> None:
    """An ACL user that may touch our keys only suffices; a wrong password is said, and mending it needs no restart."""
    async with redis_server(tmp_path) as server:
        with blocking.Redis(port=server.port) as admin:
            admin.acl_setuser(
                "companion", enabled=True, passwords=["+secret"], keys=["p:*"], commands=["+@all", "-@dangerous"]
            )
        async with opened(f"redis://companion:secret@127.0.0.1:{server.port}/0", "p") as ports:
            await use(ports)
        async with opened(f"redis://companion:secret@127.0.0.1:{server.port}/0", "other") as ports:
            with pytest.raises((Permanent, Transient), match="permission"):
                await ports.counters.add("key", 60)
        async with opened(f"redis://companion:new@127.0.0.1:{server.port}/0", "p") as ports:
            assert "invalid username-password" in str(await ports.client.trouble())
            with blocking.Redis(port=server.port) as admin:
                admin.acl_setuser("companion", enabled=True, passwords=["+new"], keys=["p:*"], commands=["+@all"])

            async def mended() -> bool:
                return await ports.client.trouble() is None

            await eventually(mended, what="the password is right now")


@pytest.mark.parametrize("url", ["http://localhost", "redis://localhost:port", "localhost:6379"])
async def test_an_address_that_is_none(url: str) -> None:
    """The setting is named; the address, which holds a password, is not shown."""
    with pytest.raises(Invalid, match="redis_url") as refused:
        async with open_redis(RedisConfig(url)):
            pass
    assert url not in str(refused.value)


async def test_nobody_listens() -> None:
    """A connection that is refused is `Transient`, at once."""
    async with opened(f"redis://127.0.0.1:{free_port()}/0", "p") as ports:
        with pytest.raises(Transient, match="redis"):
            await ports.counters.add("key", 60)
        assert "redis" in str(await ports.client.trouble())


async def test_a_black_hole(tmp_path: Path) -> None:
    """Without an answer a call ends soon, the next ones at once; when Redis is back it is found without a restart."""
    async with redis_server(tmp_path) as server, proxied(server.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        async with opened(url, "p", timeout=0.3) as ports:
            assert await ports.counters.add("key", 600) == 1
            proxy.swallow()
            for _ in range(3):
                begun = time.monotonic()
                with pytest.raises(Transient):
                    await ports.counters.add("key", 600)
                assert time.monotonic() - begun < 2
            begun = time.monotonic()
            with pytest.raises(Transient, match="redis is away"):
                await ports.counters.add("key", 600)
            assert time.monotonic() - begun < 0.2
            proxy.heal()

            async def back() -> bool:
                try:
                    return await ports.counters.add("key", 600) > 1
                except Transient:
                    return False

            await eventually(back, what="redis is back")


async def test_killed_and_back(tmp_path: Path) -> None:
    """What was written is there after `kill -9` and a restart: leases with their tokens, the inbox, checkpoints."""
    async with redis_server(tmp_path) as server, opened(server.url, "p") as ports:
        lease = await ports.leases.acquire("work", "a", 60)
        assert isinstance(lease, Lease)
        await ports.inbox.append([change(f"e{number}") for number in range(100)])
        await ports.checkpoints.save("reader", "here", lease.token)
        server.kill()
        with pytest.raises(Transient):
            await ports.checkpoints.load("reader")
        await asyncio.to_thread(server.start)

        async def back() -> bool:
            return await ports.client.trouble() is None

        await eventually(back, what="redis is back")
        assert await ports.checkpoints.load("reader") == "here"
        assert len(await ports.inbox.read(0, 1000)) == 100
        assert isinstance(await ports.leases.acquire("work", "b", 60), Held)


async def test_tokens_grow_when_redis_has_lost_its_data(tmp_path: Path) -> None:
    """The fence of a checkpoint that is kept elsewhere must still be overcome by the next holder."""
    async with redis_server(tmp_path) as server, opened(server.url, "p") as ports:
        leases = RedisLeases(ports.client)
        before = [await leases.acquire("work", "a", 60) for _ in range(3)]
        _flush(server)
        after = await leases.acquire("work", "b", 60)
        assert isinstance(after, Lease)
        assert all(isinstance(lease, Lease) and lease.token < after.token for lease in before)


async def test_the_inbox_after_redis_has_lost_its_data(tmp_path: Path) -> None:
    """The group is made anew, and positions lie behind those of before: no checkpoint hides what comes."""
    async with redis_server(tmp_path) as server, opened(server.url, "p") as ports:
        await ports.inbox.append([change("e1")])
        (before,) = await ports.inbox.read(0, 10)
        _flush(server)
        assert list(await ports.inbox.read(before.position, 10)) == []
        await ports.inbox.append([change("e1"), change("e2")])
        assert len(await ports.inbox.read(before.position, 10)) == 2


async def test_a_reader_that_comes_back(tmp_path: Path) -> None:
    """What an old reader took after its successor had begun is still found by the successor."""
    async with redis_server(tmp_path) as server, opened(server.url, "p") as old, opened(server.url, "p") as new:
        await old.inbox.append([change(f"e{number}") for number in range(3)])
        first = await new.inbox.read(0, 1)
        assert len(await old.inbox.read(0, 10)) == 3
        rest = await new.inbox.read(first[0].position, 10)
        assert [item.change.event_id for item in rest] == ["e1", "e2"]


async def test_consumers_of_the_dead_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process reads under a name of its own; those that have nothing and are long silent do not pile up."""
    monkeypatch.setattr("companion.stores.redis.inbox._FORGOTTEN_SECONDS", 0.05)
    async with redis_server(tmp_path) as server:
        for _ in range(5):
            async with opened(server.url, "p") as ports:
                await ports.inbox.append([change("e1")])
                await ports.inbox.read(0, 10)
        await asyncio.sleep(0.2)
        async with opened(server.url, "p") as ports:
            await ports.inbox.prune(through=0, before=0, limit=1)
            with blocking.Redis(port=server.port) as admin:
                assert len(admin.xinfo_consumers(ports.client.keys.inbox, "publisher")) == 1


def _flush(server: RedisServer) -> None:
    with blocking.Redis(port=server.port) as admin:
        admin.flushall()


async def test_a_connection_that_was_lost_unseen(tmp_path: Path) -> None:
    """The error of uvloop for a write on a connection that was just reset is one of a store that is away; others are ours."""

    async def write(message: str) -> None:
        raise RuntimeError(message)

    async with redis_server(tmp_path) as server, open_redis(RedisConfig(server.url)) as client:
        with pytest.raises(Transient, match="the connection was lost"):
            await client.call(
                lambda _: write("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
            )
        with pytest.raises(RuntimeError, match="something else"):
            await client.call(lambda _: write("something else"))
