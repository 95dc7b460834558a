"""TLS on our own ports: real handshakes with real processes, and certificates that change while connections run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from broker_hooks.hashing import hash_password
from companion.core.model import Account, Kind
from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from companion.stores.embedded import EmbeddedStore
from tests.broker.embedded_client import client
from tests.support.certificates import Authority, Issued, replace
from tests.support.eventually import eventually
from tests.support.raw_http import RawConnection, request
from tests.support.serve import Serving, companion_serve, refused_serve
from tests.support.waiting import wait_until

HOOK_KEY: Final = "the-hook-key-of-the-tests"
OPS_KEY: Final = "the-operations-key-of-the-tests"
ASK: Final = json.dumps({"username": "alice", "clientid": "c", "action": "subscribe", "topic": "alice/#"}).encode()
ALLOW: Final = b'{"result":"allow"}'
CONNECTIONS: Final = 12
POLL: Final = 0.2
REFUSED: Final = "certificate refused: the old one stays"


class House:
    """The files of a service with TLS on both ports, and clients of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = Authority()
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.ca.certificate)
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.first = self.ca.issue()
        self.first.write(self.cert, self.key)
        self.service: Serving

    @property
    def settings(self) -> dict[str, object]:
        both = {
            f"{port}_tls_{name}": path
            for port in ("hooks", "ops")
            for name, path in (("cert", self.cert), ("key", self.key))
        }
        return {**both, "hooks_keys": HOOK_KEY, "ops_keys": OPS_KEY, "tls_poll": POLL, "log_decisions": "none"}

    def trusting(self, presented: Issued | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts our CA."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if presented is not None:
            pair = self.folder / "client.pem"
            pair.write_bytes(presented.certificate + presented.key)
            context.load_cert_chain(pair)
        return context

    @contextlib.asynccontextmanager
    async def connected(
        self, port: int, context: ssl.SSLContext | None = None
    ) -> AsyncIterator[tuple[RawConnection, bytes]]:
        """Connect with TLS; yield the connection and the certificate that was shown."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context or self.trusting())
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            yield RawConnection(reader, writer), shown
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, context: ssl.SSLContext | None = None, key: str = HOOK_KEY) -> tuple[int, bytes]:
        """Ask the hooks; return status and body."""
        async with self.connected(self.service.hooks_port, context) as (connection, _):
            return await asked(connection, key)

    async def shown(self, port: int) -> set[bytes]:
        """Return the certificates that are shown on many connections."""

        async def once() -> bytes:
            async with self.connected(port) as (_, certificate):
                return certificate

        return set(await asyncio.gather(*(once() for _ in range(CONNECTIONS))))

    async def ops(self, method: str, path: str) -> tuple[int, str]:
        async with self.connected(self.service.ops_port) as (connection, _):
            await connection.send(request(path, key=OPS_KEY, method=method))
            answer = await connection.answer()
            return answer.status, answer.body.decode()

    async def metric(self, name: str, port: str = "hooks") -> float:
        _, text = await self.ops("GET", "/metrics")
        (value,) = [
            line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f'{name}{{port="{port}"}}')
        ]
        return float(value)

    async def refuses(self, context: ssl.SSLContext) -> None:
        """Fail unless no answer comes to a client with this context. With TLS 1.3 it may learn of it only when it reads."""
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await self.ask(context)


async def asked(connection: RawConnection, key: str = HOOK_KEY) -> tuple[int, bytes]:
    await connection.send(request("/mqtt/authz", ASK, key=key))
    answer = await connection.answer()
    return answer.status, answer.body


@pytest.fixture
async def house(tmp_path: Path) -> House:
    async with EmbeddedStore.open(tmp_path / "data") as store:
        await store.accounts.add([Account("alice", Kind.DEVICE, "alice", hash_password("secret", 4))])
    return House(tmp_path)


@contextlib.asynccontextmanager
async def open_house(house: House, *options: str, **more: object) -> AsyncIterator[Serving]:
    settings = {**house.settings, **more}
    async with companion_serve(house.folder / "data", "--role", "hooks", *options, **settings) as house.service:
        yield house.service


def only(version: ssl.TLSVersion, context: ssl.SSLContext) -> ssl.SSLContext:
    """Let a client speak this version only."""
    # Below 1.2 OpenSSL itself wants to be asked.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
async def test_which_versions_are_spoken(house: House) -> None:
    """TLS 1.2 and 1.3 on both ports; neither TLS 1.1 nor plain HTTP, and whoever does not trust the CA is not fooled."""
    async with open_house(house) as service:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await house.ask(only(version, house.trusting())) == (200, ALLOW)
        for port in (service.hooks_port, service.ops_port):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with house.connected(port, only(ssl.TLSVersion.TLSv1_1, house.trusting())):
                    pass
            with pytest.raises(ssl.SSLCertVerificationError):
                async with house.connected(port, ssl.create_default_context()):
                    pass
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("/healthz", key=OPS_KEY, method="GET"))
            async with asyncio.timeout(20):
                assert b"HTTP" not in await reader.read()
            writer.close()
        # It is not the client that cannot: where it is spoken the same one gets through.
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        old.load_cert_chain(house.cert, house.key)
        server = await asyncio.start_server(
            lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=only(ssl.TLSVersion.TLSv1_1, old)
        )
        async with (
            server,
            house.connected(server.sockets[0].getsockname()[1], only(ssl.TLSVersion.TLSv1_1, house.trusting())),
        ):
            pass
        assert (await house.ops("GET", "/healthz"))[0] == 200
        assert await house.metric("companion_tls_certificate_expiry_timestamp_seconds") == house.first.ends


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


async def test_client_certificates(house: House) -> None:
    """None, one of another CA and one that ended are refused; a good one needs a hook key all the same; another CA takes over."""
    clients, others = Authority("clients"), Authority("others")
    file = house.folder / "clients.pem"
    file.write_bytes(clients.certificate)
    async with open_house(house, hooks_tls_client_ca=file) as service:
        good = house.trusting(clients.issue("emqx"))
        assert await house.ask(good) == (200, ALLOW)
        assert (await house.ask(good, "another-key-of-the-tests"))[0] == 401
        await house.refuses(house.trusting())
        await house.refuses(house.trusting(others.issue("emqx")))
        await house.refuses(house.trusting(clients.issue("emqx", days=-1)))
        assert (await house.ops("GET", "/healthz"))[0] == 200  # the CA of the hooks is none of the other port
        replace(file, others.certificate)
        await service.logs("certificate changed", port="hooks")
        await house.refuses(good)
        assert await house.ask(house.trusting(others.issue("emqx"))) == (200, ALLOW)
        replace(file, b"no certificate")
        await service.logs(REFUSED, port="hooks")
        assert "hooks_tls_client_ca" in service.logged(REFUSED)[0]["problem"]
        await house.refuses(good)


async def test_a_key_with_a_password(house: House) -> None:
    """The password comes from a file; with the next key comes the next password, at a reload."""
    word = house.folder / "word"
    word.write_text("first password")
    house.ca.issue(password="first password").write(house.cert, house.key)
    passwords = {"hooks_tls_key_password_file": word, "ops_tls_key_password_file": word}
    async with open_house(house, **passwords) as service:
        assert await house.ask() == (200, ALLOW)
        second = house.ca.issue(password="second password")
        second.write(house.cert, house.key)
        await service.logs(REFUSED, port="hooks")
        word.write_text("second password")
        status, _ = await house.ops("POST", "/reload")
        assert status == 200
        assert await house.shown(service.hooks_port) == {second.der}
        assert "second password" not in json.dumps(service.entries)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hooks_tls_key": "nowhere.key"}, "hooks_tls_key"),
        ({"ops_tls_cert": "nowhere.pem"}, "ops_tls_cert"),
        ({"hooks_tls_key": "other.key"}, "hooks_tls_key"),
        ({"hooks_tls_key": "locked.key"}, "hooks_tls_key"),
        ({"hooks_tls_key": "."}, "hooks_tls_key"),
        ({"hooks_tls_client_ca": "other.key"}, "hooks_tls_client_ca"),
        ({"hooks_tls_cert": None}, "hooks_tls_cert"),
        ({"ops_tls_key": None}, "ops_tls_key"),
    ],
)
async def test_a_start_without_a_good_pair(house: House, changes: dict[str, str | None], field: str) -> None:
    """One line that names the setting, the file and what is allowed; nothing is asked at a terminal, nothing serves."""
    (house.folder / "other.key").write_bytes(house.ca.issue().key)
    (house.folder / "locked.key").write_bytes(house.ca.issue(password="unknown").key)
    named = {name: None if path is None else house.folder / path for name, path in changes.items()}
    settings = {name: value for name, value in {**house.settings, **named}.items() if value is not None}
    code, lines = await refused_serve(house.folder / "data", "--role", "hooks", **settings)
    assert code == 1
    (line,) = lines
    assert line.startswith(f"companion: {field}: ")


async def command(house: House, *arguments: str, **more: object) -> tuple[int | None, str, str]:
    settings = {**house.settings, **more, "data_dir": house.folder / "data", "ops_port": house.service.ops_port}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COMPANION_")}
    environ = inherited | {f"COMPANION_{name.upper()}": str(value) for name, value in settings.items()}
    program = Path(sys.executable).with_name("companion")
    process = await asyncio.create_subprocess_exec(program, *arguments, stdout=PIPE, stderr=PIPE, env=environ)
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


async def test_commands_reach_the_operations_port(house: House) -> None:
    """With the CA and a certificate, where one is demanded; without them one line says why not."""
    clients, pair = Authority("clients"), house.folder / "command.pem"
    (house.folder / "clients.pem").write_bytes(clients.certificate)
    issued = clients.issue("an operator")
    pair.write_bytes(issued.certificate + issued.key)
    more: dict[str, object] = {"ops_tls_client_ca": house.folder / "clients.pem"}
    settings = {**house.settings, **more}
    async with companion_serve(house.folder / "data", **settings) as house.service:
        change = ("change", "--db", "thing", "--collection", "devices", "--id", "d1", "--owner", "alice")
        explain = ("explain", "--user", "alice", "--action", "subscribe", "--topic", "alice/#", "--live")
        good: dict[str, Any] = {"ops_ca_file": house.ca_file, "ops_client_cert": pair}
        code, out, errors = await command(house, *change, **good)
        assert (code, errors) == (0, "")
        code, out, errors = await command(house, *explain, **good)
        assert (code, errors, out.split(":")[0]) == (0, "", "allow")
        for few in ({}, {"ops_ca_file": house.ca_file}):
            code, out, errors = await command(house, *change, **few)
            assert (code, out, errors.count("\n")) == (1, "", 1)
            assert "no answer from https://" in errors
        code, out, errors = await command(house, *change, ops_ca_file=house.key)
        assert (code, errors.count("\n")) == (1, 1)
        assert "ops_ca_file" in errors


async def test_a_broker_asks_hooks_with_tls(house: House) -> None:
    """The embedded broker trusts the CA that it is told, and presents a certificate where one is demanded."""
    clients, pair = Authority("clients"), house.folder / "broker.pem"
    (house.folder / "clients.pem").write_bytes(clients.certificate)
    issued = clients.issue("the broker")
    pair.write_bytes(issued.certificate + issued.key)
    async with open_house(house, hooks_tls_client_ca=house.folder / "clients.pem") as service:
        url = f"https://127.0.0.1:{service.hooks_port}"
        for ca, cert, code in ((house.ca_file, pair, 0), (house.ca_file, None, 5), (None, pair, 5)):
            config = EmbeddedBrokerConfig(port=0, hooks_url=url, hook_key=HOOK_KEY, hooks_ca=ca, hooks_client_cert=cert)
            async with EmbeddedBroker(config) as broker, client(broker.port) as device:
                assert await device.connect("c1") == code
