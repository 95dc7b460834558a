"""Archives in S3-compatible storage, over real HTTP: what holds there alone; the rest is in the contract."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from companion.core.errors import CompanionError, Invalid, Permanent, Transient
from companion.core.ports import Batch
from maintenance.archive import s3 as module
from maintenance.archive.bucket import Bucket
from maintenance.archive.manifest import Manifest
from maintenance.archive.s3 import Storage, Uploading
from tests.support.certificates import make_certificate
from tests.support.mosquitto import free_port
from tests.support.proxy import proxied
from tests.support.s3 import PREFIX, BucketOfTest, S3Server, new_bucket, s3_server

PART = 64 << 10


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> BucketOfTest:
    monkeypatch.setattr(module, "_PART_BYTES", PART)
    monkeypatch.setattr(module, "_RANGE_BYTES", PART // 3)
    return new_bucket()


def storage(bucket: BucketOfTest, folder: Path, **changes: Any) -> Storage:
    return Storage(bucket.place, bucket.settings(folder, **changes))


def documents(size: int) -> Iterator[Batch]:
    """Yield batches that no compression makes smaller, about so many bytes together."""
    source = random.Random(7)  # noqa: S311 - noise
    for number in range(size // 4096):
        line = source.randbytes(4096).replace(b"\n", b" ") + b"\n"
        yield Batch(1, f"{number:06}", f"{number:06}", line)


def finish(writing: Uploading, fence: int = 1) -> Manifest:
    return writing.finish(policy="audits", run="run", fence=fence, collection="mqtt_audits", before=7, now=1)


def filled(target: Storage, size: int = 5 * PART, run: str = "run", fence: int = 1) -> Uploading:
    writing = target.begin("audits", run, fence)
    for batch in documents(size):
        writing.add(batch)
    return writing


def test_in_parts(bucket: BucketOfTest, tmp_path: Path) -> None:
    """A large archive goes up in parts while it is written, and comes back range by range."""
    target = storage(bucket, tmp_path)
    writing = filled(target)
    assert bucket.uploads() == ["audits/run+1.jsonl.zst"]
    assert bucket.names() == []
    manifest = finish(writing)
    assert bucket.uploads() == []
    assert manifest.size > 4 * PART
    head = bucket.client.head_object(Bucket=bucket.name, Key=f"{PREFIX}/audits/run+1.jsonl.zst")
    assert head["ETag"].strip('"').endswith("-6")
    target.verify(manifest)
    assert list(target.lines(manifest, 1)) == [batch.lines for batch in documents(5 * PART)]
    writing.abandon()
    assert target.find("audits", "run") == manifest


def test_memory(bucket: BucketOfTest, tmp_path: Path) -> None:
    """An archive of many parts takes no more memory than one of a few: writing, verifying, reading."""

    def peak(size: int, fence: int) -> int:
        target = storage(bucket, tmp_path)
        target.list()
        tracemalloc.start()
        try:
            manifest = finish(filled(target, size, fence=fence), fence)
            assert sum(map(len, target.lines(manifest, 10))) > size * 0.9
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(3 * PART, 1)
    small, large = peak(3 * PART, 2), peak(30 * PART, 3)
    assert large < small + 6 * PART


def test_more_parts_than_there_can_be(bucket: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with a word on what to do, and leaves nothing behind."""
    monkeypatch.setattr(module, "_MOST_PARTS", 2)
    writing = storage(bucket, tmp_path).begin("audits", "run", 1)
    lines = b"".join(batch.lines for batch in documents(5 * PART))
    with pytest.raises(Permanent, match="budget"):
        writing.add(Batch(80, "0", "79", lines))
    writing.abandon()
    assert (bucket.uploads(), bucket.names()) == ([], [])


def test_what_earlier_lives_left(bucket: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next life gives up the uploads of earlier ones, not those of later ones and of other runs, unless they are old."""
    week = module._ABANDONED
    # moto has it that every upload began in 2010.
    monkeypatch.setattr(module, "_ABANDONED", dt.timedelta(days=36_500))
    target = storage(bucket, tmp_path)
    for run, fence in (("run", 9), ("run", 1), ("run2", 1)):
        filled(target, run=run, fence=fence)
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"{PREFIX}/sagas/run+1.jsonl.zst")
    bucket.client.create_multipart_upload(Bucket=bucket.name, Key=f"{PREFIX}/audits/notes")
    assert len(bucket.uploads()) == 5
    target.begin("audits", "run", 2)
    left = ["audits/notes", "audits/run+9.jsonl.zst", "audits/run2+1.jsonl.zst", "sagas/run+1.jsonl.zst"]
    assert bucket.uploads() == left
    monkeypatch.setattr(module, "_ABANDONED", week)
    target.begin("audits", "run", 2)
    assert bucket.uploads() == ["sagas/run+1.jsonl.zst"]


def test_a_life_whose_upload_was_given_up(bucket: BucketOfTest, tmp_path: Path) -> None:
    """Who was paused past its lease finds that its upload is gone: no archive comes of it."""
    target = storage(bucket, tmp_path)
    late = filled(target)
    target.begin("audits", "run", 2)
    with pytest.raises(Transient):
        finish(late)
    late.abandon()
    assert bucket.names() == []


@pytest.mark.parametrize("size", [PART // 2, 5 * PART])
def test_storage_that_keeps_something_else(bucket: BucketOfTest, tmp_path: Path, size: int) -> None:
    """When what is read back is not what was written, there is no archive."""

    class Spoiling(Bucket):
        """Somebody else writes the object right after it was stored."""

        def put(self, key: str, content: bytes, kind: str) -> None:
            super().put(key, content, kind)
            self._spoil(key)

        def complete(self, key: str, upload: str, tags: Any) -> None:
            super().complete(key, upload, tags)
            self._spoil(key)

        def _spoil(self, key: str) -> None:
            name = key.removeprefix(f"{PREFIX}/")
            bucket.write(name, bucket.read(name)[:-1] + b"?")

    target = storage(bucket, tmp_path)
    target._bucket = Spoiling(bucket.place, bucket.settings(tmp_path))
    writing = filled(target, size)
    with pytest.raises(Permanent, match=r"s3://.*run\+1.jsonl.zst: "):
        finish(writing)
    writing.abandon()
    assert bucket.names() == ["audits/run+1.jsonl.zst"]
    assert target.find("audits", "run") is None


def test_an_object_that_changes_while_it_is_read(bucket: BucketOfTest, tmp_path: Path) -> None:
    """Two objects are never mixed."""
    target = storage(bucket, tmp_path)
    lines = target.lines(finish(filled(target)), 1)
    next(lines)
    bucket.write("audits/run+1.jsonl.zst", bucket.read("audits/run+1.jsonl.zst"))
    bucket.write("audits/run+1.jsonl.zst", b"something else")
    with pytest.raises(Permanent, match="PreconditionFailed"):
        list(lines)


def test_abandoned_from_another_thread(bucket: BucketOfTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on ends at its next request, and there is no archive."""
    at_it, go_on = threading.Event(), threading.Event()
    real = Bucket.get_range

    def slow(self: Bucket, key: str, tag: str, start: int, size: int) -> bytes:
        at_it.set()
        assert go_on.wait(30)
        return real(self, key, tag, start, size)

    monkeypatch.setattr(Bucket, "get_range", slow)
    writing = filled(storage(bucket, tmp_path))
    problems: list[CompanionError] = []

    def finishing() -> None:
        try:
            finish(writing)
        except CompanionError as problem:
            problems.append(problem)

    one, other = threading.Thread(target=finishing), threading.Thread(target=writing.abandon)
    one.start()
    assert at_it.wait(30)
    other.start()
    while not writing._over.is_set():
        time.sleep(0.01)
    go_on.set()
    one.join(30)
    other.join(30)
    assert [type(problem) for problem in problems] == [Transient]
    assert bucket.names() == ["audits/run+1.jsonl.zst"]


def test_encryption(bucket: BucketOfTest, tmp_path: Path) -> None:
    """It is asked for with every object, and not without the setting."""
    for asked, size in (("AES256", PART // 2), ("aws:kms", 3 * PART), ("", PART // 2)):
        finish(filled(storage(bucket, tmp_path, s3_encryption=asked), size))
        for end in (".json", ".jsonl.zst"):
            head = bucket.client.head_object(Bucket=bucket.name, Key=f"{PREFIX}/audits/run+1{end}")
            assert head.get("ServerSideEncryption", "") == asked


# What cannot be reached or used


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
