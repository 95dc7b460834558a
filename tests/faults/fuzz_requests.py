"""Requests that must not be allowed, drawn from a seed: each is a function of the seed and its number.

Five families: recorded requests of EMQX with their fields mutated, with their bytes mutated, JSON of every kind, requests that
would be allowed but for one thing (`fuzz_spoiled`), and broken HTTP (`fuzz_framing`). The right password appears in the fourth
only, and so do topics that the account may use.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

RECORDED: Final = Path(__file__).parents[1] / "fixtures" / "emqx-5.8.9-requests.jsonl"
KEY: Final = "the-hook-key-of-the-fuzzer"
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"
EVENTS: Final = "/emqx/events"
PATHS: Final = ("/mqtt/auth", "/mqtt/authz")
OTHER_PATHS: Final = ("/mqtt/scram", "/v4/auth", "/v4/superuser", "/v4/acl", EVENTS)
"""What other versions of EMQX and other mechanisms ask; where nothing is there, it is refused as well."""

_CONTENT_TYPES: Final = (
    *(JSON, FORM) * 4,
    "",
    "application/json; charset=utf-8",
    "application/json; charset=utf-16",
    "APPLICATION/JSON",
    "text/plain",
    "multipart/form-data; boundary=x",
    "application/msgpack",
    ";",
    "application/json\x80",
)
_TEXTS: Final = (
    *("", " ", "\0", "a\0b", "${username}", "${", "undefined", "null", "true", "0", "-1", "1e400", "NaN"),
    *("#", "+", "+/#", "a/#/b", "a//b", "/", "$SYS/#", "$share/g/a", "../..", "%", "%00", "%2F", "\\", '"', "'", "{}"),
    *(
        "é",
        "😀",
        "\u2028",
        "\ud800",
        "\x7f",
        "\x1b[31m",
        "\r\n",
        "a\r\nX-Y: z",
        "Bearer x",
        "al1ce",
        "alice\0",
        "ALICE",
    ),
    *(
        "127.0.0.1",
        "::1",
        "2001:db8::/200",
        "999.1.1.1",
        "subscribe",
        "publish",
        "1",
        "2",
        "3",
        "secret",
        "mqtt",
        "apt_",
    ),
    *("eyJhbGciOiJub25lIn0.e30.", "a.b.c", "..", "$2b$04$" + "a" * 53, "' OR 1=1 --", '{"$gt":""}', "*", "*)(uid=*"),
    "x" * 256,
    "x" * 5_000,
    "a/" * 200,
)
_NAMES: Final = (
    *("username", "password", "clientid", "peerhost", "topic", "action", "access", "qos", "retain", "ipaddr", "nonce"),
    *("", "Username", "user\0name", "__proto__", "constructor", "$where", "is_superuser", "result", "x" * 500, "é"),
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One request. `whole`: its framing is as it should be, so that one answer comes and the connection may go on.

    `silent`: nobody can answer it, since it never ends; `no_body`: its answer has none.
    """

    number: int
    family: str
    wire: bytes
    path: str = ""
    whole: bool = True
    silent: bool = False
    no_body: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as EMQX sent it: its way (json, form, get), its path, its fields."""

    way: str
    path: str
    fields: Mapping[str, str]


@cache
def recorded() -> Sequence[Recorded]:
    """Return the recorded requests."""
    found = []
    for line in RECORDED.read_text().splitlines():
        one = json.loads(line)
        path, _, query = one["path"].partition("?")
        if one["method"] == "GET":
            found.append(Recorded("get", path, dict(parse_qsl(query, keep_blank_values=True))))
        elif one["body"].startswith("{"):
            found.append(Recorded("json", path, json.loads(one["body"])))
        else:
            found.append(Recorded("form", path, dict(parse_qsl(one["body"], keep_blank_values=True))))
    return found


def framed(
    draw: random.Random, path: str, body: bytes, content_type: str = JSON, *, method: str = "POST", plain: bool = False
) -> bytes:
    """Return a request that is good HTTP, its body with a length or in chunks; if not `plain`, with more headers now and then."""
    lines = [f"{method} {path} HTTP/1.1", "Host: companion", f"Authorization: Bearer {KEY}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    lines += draw.sample(_MORE, 0 if plain else draw.choice((0, 0, 0, 1, 2)))
    lines[1:] = draw.sample(lines[1:], len(lines) - 1)
    if body and draw.random() < _CHUNKED:
        lines.append("Transfer-Encoding: chunked")
        body = chunks(draw, body)
    else:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body


def chunks(draw: random.Random, body: bytes) -> bytes:
    """Return the body in chunks of any size."""
    parts = []
    while body:
        size = draw.choice((1, 2, 7, 64, len(body)))
        part, body = body[:size], body[size:]
        extension = draw.choice(("", "", "", ";a=b", ';q="x"'))
        parts.append(b"%x%s\r\n%b\r\n" % (len(part), extension.encode(), part))
    return b"".join((*parts, b"0\r\n\r\n"))


_CHUNKED: Final = 0.15
_MORE: Final = (
    *(
        "Accept: */*",
        "Cookie: a=b; c",
        "User-Agent: fuzz",
        "X-Forwarded-For: 127.0.0.1",
        "X-HTTP-Method-Override: DELETE",
    ),
    *(
        "Content-Encoding: gzip",
        "Content-Language: x",
        "If-None-Match: *",
        "Range: bytes=0-1",
        "TE: trailers",
        "Via: 1.0 x",
    ),
    *("Accept-Encoding: gzip, br", "Forwarded: for=1", "X-Empty:", "X-Long: " + "y" * 4000, "X-Latin: \xe9\xff"),
)


def mutated(draw: random.Random, number: int) -> Sent:
    """Return a recorded request with fields mutated."""
    one = draw.choice(recorded())
    pairs: list[tuple[str, Any]] = list(one.fields.items())
    for _ in range(draw.randint(1, 4)):
        _mutate_field(draw, pairs)
    path = draw.choice((one.path, one.path, one.path, draw.choice(PATHS), draw.choice(OTHER_PATHS)))
    way = draw.choice((one.way, one.way, one.way, "json", "form", "get"))
    if way == "get":
        target = f"{path}?{_query(draw, pairs)}"[:60_000]
        return Sent(number, "fields", framed(draw, target, b"", draw.choice(_CONTENT_TYPES), method="GET"), path)
    body = _json_of(draw, pairs) if way == "json" else _query(draw, pairs).encode()
    content_type = JSON if way == "json" else FORM
    if draw.random() < _ODD_TYPE:
        content_type = draw.choice(_CONTENT_TYPES)
    return Sent(number, "fields", framed(draw, path, body, content_type), path)


_ODD_TYPE: Final = 0.15


def _mutate_field(draw: random.Random, pairs: list[tuple[str, Any]]) -> None:
    at = draw.randrange(len(pairs)) if pairs else 0
    name, value = pairs[at] if pairs else ("username", "alice")
    match draw.randrange(8):
        case 0:
            del pairs[at : at + 1]
        case 1:
            pairs.append((name, draw.choice((value, draw.choice(_TEXTS)))))
        case 2:
            pairs[at : at + 1] = [(draw.choice(_NAMES), value)]
        case 3:
            pairs[at : at + 1] = [(name, any_json(draw, 2))]
        case 4:
            pairs.extend((f"{draw.choice(_NAMES)}{n}", draw.choice(_TEXTS)) for n in range(draw.choice((1, 5, 70))))
        case 5:
            text = str(value)
            cut = draw.randint(0, len(text))
            pairs[at : at + 1] = [(name, text[:cut] + draw.choice(_TEXTS) + text[cut:])]
        case 6:
            draw.shuffle(pairs)
        case _:
            pairs[at : at + 1] = [(name, draw.choice(_TEXTS))]


def _query(draw: random.Random, pairs: Sequence[tuple[str, Any]]) -> str:
    texts = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in pairs]
    if draw.random() < _HALF:
        return urlencode(texts, errors="surrogatepass")
    joined = draw.choice(("&", "&", ";", "&&", "&amp;")).join(
        f"{quote(name, errors='surrogatepass')}{draw.choice(('=', '=', '', '=='))}{quote(value, '%', errors='surrogatepass')}"
        for name, value in texts
    )
    return joined.replace("%ED", draw.choice(("%ED", "%e", "%zz", "%u00e9")))


_HALF: Final = 0.5


def _json_of(draw: random.Random, pairs: Sequence[tuple[str, Any]]) -> bytes:
    """Return an object, its names as often as they are in `pairs`."""
    ascii_only = draw.random() < _HALF
    colon = draw.choice((":", ": ", " :\t"))
    inner = draw.choice((",", ", ", ",\r\n ")).join(
        f"{json.dumps(name, ensure_ascii=ascii_only)}{colon}{json.dumps(value, ensure_ascii=ascii_only)}"
        for name, value in pairs
    )
    text = f"{{{inner}}}"
    encoding = draw.choice(("utf-8",) * 12 + ("utf-16", "utf-32", "utf-8-sig", "utf-7"))
    return text.encode(encoding, "surrogatepass") if encoding != "utf-7" else text.encode(encoding, "replace")


def any_json(draw: random.Random, depth: int) -> Any:
    """Return any JSON value, and a few that Python writes and JSON has not."""
    kind = draw.randrange(10 if depth else 7)
    match kind:
        case 0:
            return draw.choice((None, True, False))
        case 1:
            return draw.choice((0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**300, 1.5, -0.0, 5e-324))
        case 2:
            return draw.choice((float("nan"), float("inf"), float("-inf")))
        case 3 | 4 | 5 | 6:
            return draw.choice(_TEXTS)
        case 7 | 8:
            return {draw.choice(_NAMES): any_json(draw, depth - 1) for _ in range(draw.randint(0, 6))}
        case _:
            return [any_json(draw, depth - 1) for _ in range(draw.randint(0, 6))]


def alien(draw: random.Random, number: int) -> Sent:
    """Return JSON that is no question, deep and long ones among it."""
    path = draw.choice((*PATHS * 3, *OTHER_PATHS))
    match draw.randrange(6):
        case 0:
            depth = draw.choice((10, 500, 5_000, 30_000))
            opening, closing = draw.choice((("[", "]"), ('{"a":', "}")))
            body = (opening * depth + "1" + closing * draw.choice((0, depth, depth + 1)))[:65_000].encode()
        case 1:
            body = draw.choice(
                (b"9" * 5_000, b"-", b"1e999999", b'"', b"tru", b"\x00", b"{", b"}", b"[]]", b'{"a":1}{}', b" " * 900)
            )
        case 2:
            body = json.dumps({f"f{n}": draw.choice(_TEXTS) for n in range(draw.choice((64, 65, 1_000)))}).encode()[
                :90_000
            ]
        case _:
            body = json.dumps(any_json(draw, 5)).encode()[:90_000]
    return Sent(number, "json", framed(draw, path, body, draw.choice(_CONTENT_TYPES)), path)


def scrambled(draw: random.Random, number: int) -> Sent:
    """Return a recorded request with some bytes of its body other than they were."""
    one = draw.choice(recorded())
    pairs = list(one.fields.items())
    body = bytearray(urlencode(pairs).encode() if one.way != "json" else _compact(one.fields))
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(body) + 1)
        match draw.randrange(5):
            case 0:
                body[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del body[at : at + draw.choice((1, 1, 2, 20))]
            case 2:
                body[at:at] = draw.choice(
                    (b'"', b"\\", b"\xff", b"\xc3", b"{", b"}", b",", b":", b"&", b"=", b"%", b"\\u0000", b"\r\n")
                )
            case 3:
                other = draw.randrange(len(body) + 1)
                body[at:at] = body[other : other + 30]
            case _:
                del body[at:]
    content_type = JSON if one.way == "json" else FORM
    return Sent(number, "bytes", framed(draw, one.path, bytes(body), content_type), one.path)


def _compact(fields: Mapping[str, str]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
