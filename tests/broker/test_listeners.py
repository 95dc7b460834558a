"""TLS on our own ports: real handshakes with real processes, what is spoken and shown, and who is trusted."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from companion.embedded import EmbeddedBroker, EmbeddedBrokerConfig
from tests.broker.embedded_client import client
from tests.support.certificates import Authority, replace
from tests.support.listeners import ALLOW, REFUSED, House, house, open_house
from tests.support.raw_http import request
from tests.support.serve import companion_serve, refused_serve
from tests.support.service import HOOK_KEY, OPS_KEY

__all__ = ["house"]


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
