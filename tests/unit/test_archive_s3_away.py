"""S3-compatible storage that cannot be reached or used: which error comes of it, in one line."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from companion.core.errors import Invalid, Permanent, Transient
from maintenance.archive.bucket import Bucket
from tests.support.certificates import make_certificate
from tests.support.mosquitto import free_port
from tests.support.proxy import proxied
from tests.support.s3 import BucketOfTest, S3Server, s3_server
from tests.support.s3_archive import bucket, filled, finish, storage

__all__ = ["bucket"]


def test_a_bucket_that_is_not_there(bucket: BucketOfTest, tmp_path: Path) -> None:
    """It is named."""
    bucket.client.delete_bucket(Bucket=bucket.name)
    target = storage(bucket, tmp_path)
    for call in (target.list, lambda: target.find("audits", "run"), lambda: target.begin("audits", "run", 1)):
        with pytest.raises(Invalid, match=f"cleaner_archive: 's3://{bucket.name}' .*a bucket that exists"):
            call()


def test_credentials_that_are_refused(tmp_path: Path) -> None:
    """The storage's word is passed on, the secret is not."""
    server = S3Server(open_actions=1)
    try:
        bucket = BucketOfTest(server)
        with pytest.raises(Invalid, match=r"cleaner_archive: .*InvalidAccessKeyId") as problem:
            storage(bucket, tmp_path).find("audits", "run")
    finally:
        server.stop()
    assert "the-secret-key" not in str(problem.value)
    assert str(problem.value).isprintable()


def test_no_credentials(bucket: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are none anywhere, the setting is named; those of the environment will do."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(Invalid, match="s3_access_key: 'none'"):
        storage(bucket, tmp_path, s3_access_key="", s3_secret_key="").list()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    assert storage(bucket, tmp_path, s3_access_key="", s3_secret_key="").list() == []


def test_nobody_there(bucket: BucketOfTest, tmp_path: Path) -> None:
    """Storage that refuses connections is away: for a while, not for ever."""
    begun = time.monotonic()
    with pytest.raises(Transient, match="Could not connect"):
        storage(bucket, tmp_path, s3_endpoint=f"http://127.0.0.1:{free_port()}").list()
    assert time.monotonic() - begun < 20


async def test_silence(bucket: BucketOfTest, tmp_path: Path) -> None:
    """Storage that says nothing is away after so many attempts; then it is there again."""
    async with proxied(s3_server().port) as proxy:
        target = storage(bucket, tmp_path, s3_endpoint=f"http://127.0.0.1:{proxy.port}", s3_timeout=0.5, s3_attempts=2)
        writing = await asyncio.to_thread(filled, target)
        proxy.swallow()
        begun = time.monotonic()
        with pytest.raises(Transient):
            await asyncio.to_thread(finish, writing)
        assert proxy.connections >= 2
        await asyncio.to_thread(writing.abandon)
        assert time.monotonic() - begun < 30
        proxy.heal()
        proxy.reset()
        target = storage(bucket, tmp_path, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
        manifest = await asyncio.to_thread(lambda: finish(filled(target, fence=2), 2))
        assert await asyncio.to_thread(target.find, "audits", "run") == manifest
        assert bucket.uploads() == []


def error(status: int, code: str) -> bytes:
    """Return an error as S3 words it."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Because\nof that</Message></Error>".encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\nConnection: close"
    return head.encode() + b"\r\n\r\n" + text


@contextlib.asynccontextmanager
async def answering(said: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a server that says the same whatever it is asked."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("said", "kind", "what"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Transient, "503"),
        (b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Transient, "429"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", Transient, "s3://"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nhello", Transient, "s3://"),
        (b"nonsense\r\n\r\n", Transient, "s3://"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Invalid, "cleaner_archive"),
        (b"HTTP/1.1 418 Tea\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", Permanent, "418"),
        (error(404, "NoSuchUpload"), Transient, "NoSuchUpload"),
        (error(404, "NoSuchKey"), Permanent, "it is not there"),
        (error(403, "RequestTimeTooSkewed"), Invalid, "RequestTimeTooSkewed"),
        (error(400, "RequestTimeout"), Transient, "RequestTimeout"),
        (error(400, "AuthorizationHeaderMalformed"), Invalid, "s3_region: 'us-east-1'"),
    ],
)
async def test_other_answers(bucket: BucketOfTest, tmp_path: Path, said: bytes, kind: type, what: str) -> None:
    """What a proxy or a server in trouble says becomes one of our errors, in one line."""
    async with answering(said) as port:
        target = storage(bucket, tmp_path, s3_endpoint=f"http://127.0.0.1:{port}", s3_attempts=1)
        with pytest.raises(kind, match=what) as problem:
            await asyncio.to_thread(target.list)
    assert str(problem.value).isprintable()


async def test_an_answer_that_breaks_off(bucket: BucketOfTest, tmp_path: Path) -> None:
    """It is asked for again, so often and no more."""
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nhello"
    async with answering(said) as port, proxied(port) as proxy:
        settings = bucket.settings(tmp_path, s3_endpoint=f"http://127.0.0.1:{proxy.port}", s3_attempts=3)
        with pytest.raises(Transient):
            await asyncio.to_thread(Bucket(bucket.place, settings).get, "x")
        assert proxy.connections == 3


async def test_certificates(bucket: BucketOfTest, tmp_path: Path) -> None:
    """A certificate that nobody knows is refused, and named as the cause; it is trusted by a file, or when not looked at."""
    certificate, key = make_certificate(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    said = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with answering(said, context) as port:
        address = f"https://127.0.0.1:{port}"
        for changes, kind, what in (
            ({}, Invalid, "s3_endpoint"),
            ({"s3_ca_file": tmp_path / "missing.pem"}, Invalid, "s3_ca_file"),
            ({"s3_ca_file": certificate}, Transient, "503"),
            ({"s3_verify": False}, Transient, "503"),
        ):
            target = storage(bucket, tmp_path, s3_endpoint=address, s3_attempts=1, **changes)
            with pytest.raises(kind, match=what):
                await asyncio.to_thread(target.list)


@pytest.mark.parametrize("command", [("archive", "list"), ("serve", "--role", "maintenance")])
def test_without_the_extra(tmp_path: Path, command: Sequence[str]) -> None:
    """Commands and the service say in one line what to install; the package can be imported without it."""
    program = "import sys; sys.modules['boto3'] = None; from companion.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *command],
        capture_output=True,
        text=True,
        check=False,
        env={
            "COMPANION_CLEANER_ARCHIVE": "s3://bucket",
            "COMPANION_DATA_DIR": str(tmp_path),
            "COMPANION_OPS_PORT": "0",
        },
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1
    assert "pip install 'mqtt-companion[s3]'" in result.stderr
