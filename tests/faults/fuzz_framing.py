"""Broken HTTP around requests that are nothing special themselves."""

from __future__ import annotations

import random
from typing import Final

from tests.faults.fuzz_requests import JSON, KEY, PATHS, Sent, chunks, framed

_BODY: Final = b'{"username":"alice","password":"secret","clientid":"c","action":"publish","topic":"a/b"}'


def broken(draw: random.Random, number: int) -> Sent:
    """Return a request whose head, length or chunks are not what they should be."""
    path = draw.choice(PATHS)
    match draw.randrange(9):
        case 0:
            return Sent(number, "framing", _head(draw, path), path, whole=False)
        case 1:
            return Sent(number, "framing", _lengths(draw, path), path, whole=False)
        case 2:
            return Sent(number, "framing", _chunked(draw, path), path, whole=False)
        case 3:
            return Sent(number, "framing", _target(draw), path, whole=False)
        case 4:
            # A version that is known: the answer may end the connection.
            wire = framed(draw, path, _BODY).replace(b"HTTP/1.1", draw.choice((b"HTTP/1.0", b"HTTP/1.1")), 1)
            wire = wire.replace(
                b"\r\nHost: companion", draw.choice((b"", b"\r\nConnection: close", b"\r\nConnection: keep-alive")), 1
            )
            return Sent(number, "framing", wire, path, whole=False)
        case 5:
            wire = framed(draw, path, b"", method=draw.choice(("HEAD", "CONNECT")))
            return Sent(number, "framing", wire, path, whole=False, no_body=True)
        case 6:
            wire = framed(draw, path, _BODY)
            return Sent(
                number, "framing", wire[: draw.randrange(1, wire.index(b"\r\n\r\n"))], path, whole=False, silent=True
            )
        case 7:
            more = draw.choice(
                (b"Expect: 100-continue", b"Expect: x", b"Upgrade: websocket\r\nConnection: Upgrade", b"Upgrade: h2c")
            )
            wire = framed(draw, path, _BODY).replace(b"Host:", more + b"\r\nHost:", 1)
            return Sent(number, "framing", wire, path, whole=False)
        case _:
            noise = bytes(draw.randrange(256) for _ in range(draw.choice((3, 40, 400))))
            return Sent(number, "framing", noise.replace(b"\n", b"") + b"\r\n\r\n", whole=False)


def unfinished(draw: random.Random, number: int) -> Sent:
    """Return a request whose body never ends: it is answered at the deadline."""
    path = draw.choice(PATHS)
    more = draw.choice((f"Content-Length: {len(_BODY) + draw.choice((1, 1000))}", "Transfer-Encoding: chunked"))
    body = b"%x\r\n%b\r\n" % (len(_BODY), _BODY) if more.startswith("Transfer") else _BODY
    head = f"POST {path} HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {JSON}\r\n{more}\r\n\r\n"
    return Sent(number, "unfinished", head.encode() + body, path, whole=False)


def _head(draw: random.Random, path: str) -> bytes:
    wire = framed(draw, path, _BODY)
    line = draw.choice(
        (
            *(
                b"no colon",
                b": no name",
                b"a b: c",
                b" folded: x",
                b"X: a\x00b",
                b"X\xff: y",
                b"X: a\rb",
                b"X:\x0b",
                b"\t",
                b"Host : x",
            ),
            b"X: " + b"y" * 9_000,
            b"\r\n".join(b"X-%d: y" % number for number in range(draw.choice((50, 200)))),
            b"Authorization: Bearer \xff\xfe",
            b"Authorization:",
            b"Authorization: Basic YTpi",
            b"Content-Type: text/html",
            b"Host: other",
            b"Content-Length: 88",
            b"Content-Type: \xff",
        )
    )
    return wire.replace(b"\r\nHost:", b"\r\n" + line + b"\r\nHost:", 1)


def _lengths(draw: random.Random, path: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {JSON}\r\n"
    size = len(_BODY)
    lengths = draw.choice(
        (
            *(
                f"{size - 5}",
                "0",
                "-1",
                "+5",
                " ",
                "1e2",
                "0x10",
                "9" * 30,
                f"{size}, {size}",
                "",
                "\uff15",
                f"{size}x",
                f"0{size}",
            ),
            *(
                f"{size}\r\nContent-Length: {size}",
                f"{size}\r\nContent-Length: 3",
                f"{size}\r\nTransfer-Encoding: chunked",
            ),
            *(f"{size}\r\nTransfer-Encoding: identity", f"{size}\r\nTransfer-Encoding: gzip"),
        )
    )
    return (head + f"Content-Length: {lengths}\r\n\r\n").encode() + _BODY


def _chunked(draw: random.Random, path: str) -> bytes:
    coding = draw.choice(
        (
            "chunked",
            "chunked",
            "Chunked",
            "gzip, chunked",
            "chunked, chunked",
            "chunked\r\nTransfer-Encoding: chunked",
            "xchunked",
        )
    )
    head = f"POST {path} HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {JSON}\r\n"
    head += f"Transfer-Encoding: {coding}\r\n\r\n"
    good = chunks(draw, _BODY)
    body = draw.choice(
        (
            good,
            b"x\r\n" + good,
            b"-1\r\n" + good,
            good.replace(b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n"),
            good.replace(b"0\r\n\r\n", b"0\r\nbad trailer\r\n\r\n"),
            good.replace(b"\r\n", b"\n"),
            b"ffffffffffffffffff\r\n" + good,
            b"0x5\r\nabcde\r\n0\r\n\r\n",
            b"5\r\nabcdefgh\r\n0\r\n\r\n",
            b" 5\r\nabcde\r\n0\r\n\r\n",
            b"5;" + b"a" * 20_000 + b"\r\nabcde\r\n0\r\n\r\n",
        )
    )
    return head.encode() + body


def _target(draw: random.Random) -> bytes:
    target = draw.choice(
        (
            *(
                b"",
                b"*",
                b"http://",
                b"http://[::1/mqtt/auth",
                b"http://x/mqtt/authz",
                b"//",
                b"?",
                b"/mqtt/auth#x",
                b"/\xff",
                b"/%",
                b"/%zz",
            ),
            *(
                b"/mqtt/auth?a=%",
                b"/mqtt/auth?" + b"a=1&" * 200,
                b"/mqtt/authz?action=publish&topic=%00",
                b"mqtt/auth",
                b"/mqtt/auth?\x00",
            ),
            *(
                b"http://user:pw@h:99999/mqtt/auth",
                b"https://a:b/",
                b"/mqtt/auth x",
                b"/" + b"p" * 80_000,
                b"/\xc3\xa9",
                b"/[",
                b"//[x]/mqtt",
            ),
        )
    )
    method = draw.choice((b"POST", b"GET", b"GET", b"\x00", b"P@ST", b"G" * 50))
    wire = framed(draw, "/T", _BODY if draw.random() < _HALF else b"")
    return wire.replace(b"POST /T ", method + b" " + target + b" ", 1)


_HALF: Final = 0.5
