"""Bodies that nobody should send, each with a secret in it that must not turn up anywhere."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from tests.support.raw_http import request

SECRET: Final = "s3cret-MARKER-0f-the-tests"
_S: Final = SECRET.encode()
MEGABYTES_10: Final = 10 * 1024 * 1024


def _object(text: str) -> bytes:
    """Return a JSON object that begins with the secret and goes on with this text."""
    return f'{{"password":"{SECRET}",{text}}}'.encode()


NOT_JSON: Final[Mapping[str, bytes]] = {
    "empty": b"",
    "spaces": b" \r\n\t",
    "text": _S,
    "XML": b"<password>" + _S + b"</password>",
    "a form": b"password=" + _S,
    "single quotes": b"{'password':'" + _S + b"'}",
    "names without quotes": b'{password:"' + _S + b'"}',
    "a comment": _object("/* really */"),
    "a comma too many": _object(""),
    "a comma too few": _object('"a":1 "b":2'),
    "ended in a string": b'{"password":"' + _S,
    "ended in an object": b'{"password":"' + _S + b'"',
    "ended in an escape": b'{"password":"' + _S + b"\\u00",
    "something behind it": _object('"a":1') + b"x",
    "two objects": _object('"a":1') * 2,
    "a line break in a string": b'{"password":"' + _S + b'\n"}',
    "a NUL in a string": b'{"password":"' + _S + b'\0"}',
    "a NUL behind it": _object('"a":1') + b"\0",
    "an unknown escape": b'{"password":"' + _S + b'\\q"}',
    "a byte order mark": b"\xef\xbb\xbf" + _object('"a":1'),
    "UTF-16": _object('"a":1').decode().encode("utf-16"),
    "UTF-32": _object('"a":1').decode().encode("utf-32-le"),
    "Latin-1": b'{"password":"' + _S + b'\xe9"}',
    "UTF-8 that is too long for its character": b'{"password":"' + _S + b'\xc0\xaf"}',
    "UTF-8 of a surrogate": b'{"password":"' + _S + b'\xed\xa0\x80"}',
    "half of a character": b'{"password":"' + _S + b"\xf0\x9f",
    "a lone surrogate": b'{"password":"' + _S + b'\\ud800"}',
    "a lone surrogate in a name": b'{"\\udfff":"' + _S + b'"}',
    "surrogates in the wrong order": b'{"password":"' + _S + b'\\udc00\\ud800"}',
    "NaN": _object('"at":NaN'),
    "Infinity": _object('"at":Infinity'),
    "-Infinity": _object('"at":-Infinity'),
    "1e999": _object('"at":1e999'),
    "-1e999": _object('"at":-1e999'),
    "an integer of 30 digits": _object('"at":' + "9" * 30),
    "an integer of 6,000 digits": _object('"at":' + "9" * 6000),
    "one more than 64 bits": _object(f'"at":{2**63}'),
    "a leading zero": _object('"at":012'),
    "a hexadecimal number": _object('"at":0x10'),
    "a plus sign": _object('"at":+1'),
    "a number without a beginning": _object('"at":.5'),
    "a word that is none": _object('"at":undefined'),
    "True": _object('"at":True'),
    "the same name twice": _object('"password":"other"'),
    "the same name twice, once escaped": _object('"p\\u0061ssword":"other"'),
    "the same name twice, deep inside": _object('"after":{"a":[{"b":1,"b":2}]}'),
    "2,000 arrays in each other": _object('"after":' + "[" * 2000 + "]" * 2000),
    "100,000 arrays in each other": b"[" * 100_000 + b'"' + _S + b'"' + b"]" * 100_000,
    "2,000 objects in each other": _object('"after":' + '{"a":' * 2000 + "1" + "}" * 2000),
    "100,000 objects in each other": b'{"a":' * 100_000 + b'"' + _S + b'"' + b"}" * 100_000,
    "100,000 arrays that never end": b"[" * 100_000,
    "66 levels": _object('"after":' + "[" * 65 + "]" * 65),
    "compressed": gzip.compress(_object('"a":1')),
}
"""Not JSON, or JSON that two readers could understand differently."""

OTHER_VALUES: Final[Mapping[str, Any]] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "a number": 17,
    "a fraction": 1.5,
    "a string": SECRET,
    "an empty array": [],
    "an array of nothing": [None],
    "an array of strings": [SECRET],
    "an array of arrays": [[SECRET]],
}
"""JSON, but no object."""

TOO_LARGE: Final[Mapping[str, bytes]] = {
    "10 MB of spaces": b" " * MEGABYTES_10,
    "10 MB of a password": b'{"password":"' + (_S * (MEGABYTES_10 // len(_S))) + b'"}',
    "10 MB of brackets": b"[" * MEGABYTES_10,
    "10 MB of zeros": b"\0" * MEGABYTES_10,
}


def chunked(*chunks: bytes) -> bytes:
    """Return a body in chunks (RFC 9112 §7.1)."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _with(*headers: str, body: bytes = b"{}") -> Callable[[str, str], bytes]:
    return lambda path, key: request(path, body, key=key, headers=headers)


def _line(text: str) -> Callable[[str, str], bytes]:
    """Return a request with this text as its first line."""
    return lambda path, key: (
        f"{text.format(path=path)}\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 0\r\n\r\n"
    ).encode("latin-1")


_CHUNKED: Final = "Transfer-Encoding: chunked"
_JSON: Final = json.dumps({"password": SECRET}).encode()

NOT_HTTP: Final[Mapping[str, Callable[[str, str], bytes]]] = {
    "a chunk whose size is no number": _with(_CHUNKED, body=b"zz\r\n" + _JSON + b"\r\n0\r\n\r\n"),
    "a chunk whose size is negative": _with(_CHUNKED, body=b"-5\r\n" + _JSON + b"\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": _with(_CHUNKED, body=b"5\r\n" + _JSON + b"\r\n0\r\n\r\n"),
    "a chunk whose size is beyond every memory": _with(_CHUNKED, body=b"f" * 40 + b"\r\n" + _JSON),
    "chunks without a size": _with(_CHUNKED, body=_JSON),
    "a body that is longer than it says": _with("Content-Length: 5", body=_JSON),
    "a negative length": _with("Content-Length: -5", body=_JSON),
    "a length that is no number": _with(f"Content-Length: {SECRET}", body=_JSON),
    "a length of 40 digits": _with("Content-Length: " + "9" * 40, body=_JSON),
    "two lengths": _with("Content-Length: 5", "Content-Length: 6", body=_JSON),
    "a length and chunks": _with("Content-Length: 5", _CHUNKED, body=chunked(_JSON)),
    "a header line of 30,000 bytes": _with(f"X-Long: {SECRET * 1200}"),
    "1,000 headers": _with(*(f"X-{number}: {SECRET}" for number in range(1000))),
    "a header name with a space": _with(f"X Space: {SECRET}"),
    "a header without a colon": _with(SECRET.replace("-", " ")),
    "a control character in a header": _with(f"X-Control: {SECRET}\0"),
    "a target of 200,000 bytes": _line("POST {path}?" + SECRET * 8000 + " HTTP/1.1"),
    "bytes in the target that are no text": _line("POST {path}?password=\xff\xfe" + SECRET + " HTTP/1.1"),
    "a target that is no address": _line("POST http://[::1{path}?" + SECRET + " HTTP/1.1"),
    "an HTTP version that is none": _line("POST {path} " + SECRET),
    "a method that is none": _line(SECRET.replace("-", "") + " {path} HTTP/1.1"),
    "no HTTP at all": lambda path, key: _S + b"\r\n\r\n",  # noqa: ARG005 - as the others are called
    "the beginning of HTTP/2": lambda path, key: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _S,  # noqa: ARG005 - likewise
    "the beginning of TLS": lambda path, key: b"\x16\x03\x01\x02\x00\x01\x00" + _S,  # noqa: ARG005 - likewise
}
"""Not even HTTP: the parser refuses it, and no handler is asked."""
