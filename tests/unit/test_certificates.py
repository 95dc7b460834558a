"""Certificates in force: what takes their place and what does not, by the clock and when reading fails."""

from __future__ import annotations

import errno
import os
import ssl
import time
from pathlib import Path

import pytest

from companion.certificates import Watched
from companion.core.errors import Invalid
from companion.metrics import Metrics
from companion.settings import Settings
from companion.tls import Certificate, SwitchedContext, TlsFiles, read_certificate
from tests.support.certificates import Authority, Issued

DAY = 86_400.0


class House:
    """The files of a port, and what looks after them at a time of the test's choosing."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority()
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.now = time.time()
        self.taken: list[Certificate] = []

    def put(self, issued: Issued) -> None:
        issued.write(self.cert, self.key)

    def watched(self) -> Watched:
        files = TlsFiles("hooks", self.cert, self.key, None, "")
        settings = Settings(data_dir=self.cert.parent, hooks_tls_cert=self.cert, hooks_tls_key=self.key)
        made = Watched(files, Metrics().tls, seconds=0.01, reread=lambda: settings, now=lambda: self.now)
        made.tell(self.taken.append)
        return made


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_what_ends_sooner_or_later(house: House) -> None:
    """What is not valid now takes the place of what is not either, never of what is; later, when it is, it does."""
    first, early, late = house.ca.issue(days=1), house.ca.issue(days=-1), house.ca.issue(days=12)
    house.put(first)
    watched = house.watched()
    for other in (early, late):
        house.put(other)
        with pytest.raises(Invalid, match=r"hooks_tls_cert.* valid now, not from"):
            await watched.prepare()
    house.now += 3 * DAY
    (await watched.prepare())()
    assert [one.not_after for one in house.taken] == [late.ends]
    house.now += 30 * DAY
    house.put(early)
    (await watched.prepare())()
    assert [one.not_after for one in house.taken] == [late.ends, early.ends]


async def test_the_same_again(house: House) -> None:
    """Files that say what they said change nothing."""
    house.put(house.ca.issue())
    watched = house.watched()
    house.put(Issued(watched.current.cert, watched.current.key))
    (await watched.prepare())()
    assert house.taken == []


async def test_a_machine_that_cannot_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """When files cannot be opened for a reason that is not theirs, the old one goes on, and the next look is another chance."""
    house.put(house.ca.issue())
    watched = house.watched()
    house.put(house.ca.issue(days=2))

    def exhausted(_name: str) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as fault:
        fault.setattr(os, "memfd_create", exhausted)
        with pytest.raises(Invalid, match="read here and now"):
            await watched.prepare()
    assert house.taken == []
    (await watched.prepare())()
    assert len(house.taken) == 1


def handshake(server: ssl.SSLContext, ca: Authority) -> bytes | None:
    """Shake hands in memory; return the certificate that the client was shown."""
    client = ssl.create_default_context(cadata=ca.certificate.decode())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(down, up, server_hostname="127.0.0.1")
    called = server.wrap_bio(up, down, server_side=True)
    done: set[ssl.SSLObject] = set()
    for side in (caller, called) * 4:
        if side not in done:
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
    assert done == {caller, called}
    return caller.getpeercert(binary_form=True)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_context_switches(house: House, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool) -> None:
    """Each connection is shown the certificate of the moment, also where OpenSSL can be given no file in memory."""
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    first, second = house.ca.issue(), house.ca.issue()
    files = TlsFiles("hooks", house.cert, house.key, None, "")
    house.put(first)
    context = SwitchedContext(read_certificate(files))
    assert handshake(context, house.ca) == first.der
    house.put(second)
    context.use(read_certificate(files))
    assert handshake(context, house.ca) == second.der


def test_nothing_shows_the_key(house: House) -> None:
    """Neither the key nor its password is in what a certificate looks like."""
    issued = house.ca.issue(password="a password")
    house.put(issued)
    certificate = read_certificate(TlsFiles("hooks", house.cert, house.key, None, "a password"))
    shown = repr(certificate) + repr(TlsFiles("hooks", house.cert, house.key, None, "a password"))
    assert "a password" not in shown
    assert "PRIVATE" not in shown
