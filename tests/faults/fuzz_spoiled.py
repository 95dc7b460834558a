"""Requests that would be allowed, but for one thing: the nearest that a mistake in reading could come to letting somebody in."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Final

from tests.faults.fuzz_requests import FORM, JSON, KEY, Sent, framed

NAME: Final = "alice"
LONG_NAME: Final = "long"
PASSWORD: Final = "the right password of the fuzzer"
LONG_PASSWORD: Final = "l" * 72
"""bcrypt reads 72 bytes: what comes behind them must not be overlooked."""
GRANTED: Final = "granted/to/alice"

LOGIN: Final = {"zone": "default", "username": NAME, "peerhost": "127.0.0.1", "password": PASSWORD, "clientid": "dev-1"}
SUBSCRIBE: Final = {
    "username": NAME,
    "topic": "alice/#",
    "retain": "false",
    "qos": "0",
    "clientid": "dev-1",
    "action": "subscribe",
}
PUBLISH: Final = {**SUBSCRIBE, "topic": GRANTED, "action": "publish"}
_RIGHT: Final = (("/mqtt/auth", LOGIN), ("/mqtt/authz", SUBSCRIBE), ("/mqtt/authz", PUBLISH))

Fields = Mapping[str, str]
Spoil = Callable[[random.Random, str, Fields], bytes]


def right(draw: random.Random, number: int) -> Sent:
    """Return a request that must be allowed."""
    path, fields = draw.choice(_RIGHT)
    return Sent(number, "control", framed(draw, path, _text(fields).encode(), plain=True), path)


def spoiled(draw: random.Random, number: int) -> Sent:
    """Return a right request with one thing wrong."""
    path, fields = draw.choice(_RIGHT)
    spoil = draw.choice(_ANY if path == "/mqtt/authz" else (*_ANY, *_OF_A_LOGIN))
    if path == "/mqtt/authz" and draw.random() < _OFTEN:
        spoil = draw.choice(_OF_A_TOPIC)
    return Sent(number, "spoiled", spoil(draw, path, fields), path)


_OFTEN: Final = 0.5


def _text(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def _sent(draw: random.Random, path: str, body: str | bytes, content_type: str = JSON) -> bytes:
    return framed(draw, path, body.encode() if isinstance(body, str) else body, content_type)


def _other_field(draw: random.Random, fields: Fields) -> str:
    return draw.choice(sorted(fields))


# Of any request.


def _twice(draw: random.Random, path: str, fields: Fields) -> bytes:
    name = _other_field(draw, fields)
    again = draw.choice((json.dumps(name), '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'))
    value = draw.choice((fields[name], "other"))
    pair = f"{again}:{json.dumps(value)}"
    text = _text(fields)
    return _sent(draw, path, draw.choice((f"{{{pair},{text[1:]}", f"{text[:-1]},{pair}}}")))


def _of_a_wrong_kind(draw: random.Random, path: str, fields: Fields) -> bytes:
    name = _other_field(draw, fields)
    value = draw.choice(([fields[name]], {"": fields[name]}, 1, True, None, 0.5))
    return _sent(draw, path, _text({**fields, name: value}))


def _unfilled(draw: random.Random, path: str, fields: Fields) -> bytes:
    name = draw.choice(("username", "clientid"))
    value = draw.choice(("${username}", "${clientid}", fields[name] + "\0", "\0" + fields[name]))
    return _sent(draw, path, _text({**fields, name: value}))


def _cut(draw: random.Random, path: str, fields: Fields) -> bytes:
    body = _text(fields).encode()
    return _sent(draw, path, body[: draw.randrange(1, len(body))])


def _more(draw: random.Random, path: str, fields: Fields) -> bytes:
    body = _text(fields)
    return _sent(
        draw,
        path,
        draw.choice((body + "x", body + "{}", body + "]", body + "\0", "\ufeff" + body, "x" + body, body * 2)),
    )


def _not_json(draw: random.Random, path: str, fields: Fields) -> bytes:
    text = _text(fields)
    spoilt = draw.choice(
        (
            text.replace('"', "'"),
            text[:-1] + ",}",
            text.replace(",", ",/* */", 1),
            f"[{text}]",
            json.dumps(text),
            text[:-1] + ',"n":NaN}',
            text[:-1] + ',"n":01}',
            text[:-1] + ',"n":"\\x"}',
            text[:-1] + ',"n":"\n"}',
            text[:-1] + ',"n":"\\ud800"}',
        )
    )
    return _sent(draw, path, spoilt)


def _encoded(draw: random.Random, path: str, fields: Fields) -> bytes:
    text = _text(fields)
    body = draw.choice(
        (
            text.encode("utf-16"),
            text.encode("utf-32-le"),
            text.encode().replace(b"alice", b"alice\xff", 1),
            b"\xff" + text.encode(),
        )
    )
    return _sent(draw, path, body)


def _typed(draw: random.Random, path: str, fields: Fields) -> bytes:
    types = ("text/plain", "application/xml", "multipart/form-data; boundary=a", "application/jsonx", "json", FORM)
    return _sent(draw, path, _text(fields), draw.choice(types))


def _without_a_key(draw: random.Random, path: str, fields: Fields) -> bytes:
    wire = framed(draw, path, _text(fields).encode())
    good = f"Authorization: Bearer {KEY}\r\n".encode()
    bad = draw.choice(("", f"Authorization: {KEY}", f"Authorization: Basic {KEY}", f"Authorization: Bearer {KEY}x"))
    also = draw.choice(("", f"Proxy-Authorization: Bearer {KEY}", f"X-Authorization: Bearer {KEY}"))
    lines = "".join(f"{line}\r\n" for line in (bad, also) if line).encode()
    assert good in wire
    return wire.replace(good, lines, 1)


def _at_another_place(draw: random.Random, path: str, fields: Fields) -> bytes:
    hook = path.rpartition("/")[2]
    places = (
        *(f"{path}/", f"/{path}", path.upper(), f"{path}%2F", f"{path};a=b", f"{path}%00", f"{path}.json", "/", "*"),
        *(f"/x/..{path}", f"/mqtt/./{hook}", f"{path}//", f"/v1{path}", "/mqtt", f"{path}\\", f"{path}%20"),
    )
    return _sent(draw, draw.choice(places), _text(fields))


def _by_another_method(draw: random.Random, path: str, fields: Fields) -> bytes:
    method = draw.choice(("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "PROPFIND", "X"))
    return framed(draw, path, _text(fields).encode(), method=method)


def _too_much(draw: random.Random, path: str, fields: Fields) -> bytes:
    if draw.random() < _RARELY:
        return _sent(draw, path, _text({**fields, "pad": "x" * 66_000}))
    return _sent(draw, path, _text({**fields, **{f"field{number}": "x" for number in range(61)}}))


_RARELY: Final = 0.1


def _as_a_bad_form(draw: random.Random, path: str, fields: Fields) -> bytes:
    form = "&".join(f"{name}={value.replace(' ', '+').replace('#', '%23')}" for name, value in fields.items())
    name = _other_field(draw, fields)
    ends = (
        "&",
        "&x",
        "&x=%",
        "&x=%zz",
        "&x=%ff",
        f"&{name}={fields[name]}",
        f"&{name}=",
        "&%00=%00&x",
        "&x=\xe9",
        "&x=%ED%A0%80",
    )
    return _sent(draw, path, form + draw.choice(ends), draw.choice((FORM, "")))


_ANY: Final[tuple[Spoil, ...]] = (
    *(_twice, _of_a_wrong_kind, _unfilled, _cut, _more, _not_json, _encoded, _typed, _without_a_key),
    *(_at_another_place, _by_another_method, _too_much, _as_a_bad_form),
)

# Of a login.


def _nearly(draw: random.Random, path: str, fields: Fields) -> bytes:
    password = draw.choice(
        (
            PASSWORD + " ",
            PASSWORD + "\0",
            PASSWORD[:-1],
            PASSWORD.upper(),
            "",
            PASSWORD * 2,
            PASSWORD + "\n",
            " " + PASSWORD,
        )
    )
    return _sent(draw, path, _text({**fields, "password": password}))


def _behind_the_end(draw: random.Random, path: str, fields: Fields) -> bytes:
    password = LONG_PASSWORD + draw.choice(("x", "\0", LONG_PASSWORD, " ", "é"))
    return _sent(draw, path, _text({**fields, "username": LONG_NAME, "password": password}))


def _as_another(draw: random.Random, path: str, fields: Fields) -> bytes:
    name = draw.choice((LONG_NAME, "nobody", "Alice", "alice ", " alice", "\uff41lice", "alice\u200b", ""))
    return _sent(draw, path, _text({**fields, "username": name}))


_OF_A_LOGIN: Final[tuple[Spoil, ...]] = (_nearly, _behind_the_end, _as_another) * 2

# Of a publish or a subscribe.


def _elsewhere(draw: random.Random, path: str, fields: Fields) -> bytes:
    topics = (
        *(
            "#",
            "+/#",
            "+",
            "alic+/#",
            "alice2/#",
            "alice#",
            "ALICE/#",
            "/alice/#",
            "alice/#/x",
            "alice/+/#/",
            "$SYS/#",
            "",
        ),
        *(
            "granted/#",
            "granted/+/alice",
            "granted/to/alice/x",
            "granted/to/alicE",
            "granted//to/alice",
            "bob/#",
            "+/x",
            "alice/a#",
        ),
    )
    return _sent(draw, path, _text({**fields, "topic": draw.choice(topics)}))


def _by_another_action(draw: random.Random, path: str, fields: Fields) -> bytes:
    wrong = {"publish": "subscribe", "subscribe": "publish"}[fields["action"]]
    action = draw.choice((wrong, "Publish", "SUBSCRIBE", "all", "", "pubsub", "1", " publish"))
    return _sent(draw, path, _text({**fields, "action": action}))


def _by_somebody_else(draw: random.Random, path: str, fields: Fields) -> bytes:
    name = draw.choice((LONG_NAME, "nobody", "Alice", "alice/", "+", "#", ""))
    return _sent(draw, path, _text({**fields, "username": name}))


def _in_another_way(draw: random.Random, path: str, fields: Fields) -> bytes:
    name, value = draw.choice(
        (("qos", "3"), ("qos", "-1"), ("qos", "0x0"), ("retain", "maybe"), ("retain", "TRUE"), ("qos", "\uff10"))
    )
    return _sent(draw, path, _text({**fields, name: value}))


_OF_A_TOPIC: Final[tuple[Spoil, ...]] = (_elsewhere, _by_another_action, _by_somebody_else, _in_another_way)
