"""Keys of issuers, tokens that they sign, and a real HTTP server for their JWK Sets."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.support.jwts import in_seconds

FAMILIES = {
    "RS256": "rsa",
    "RS384": "rsa",
    "RS512": "rsa",
    "PS256": "rsa",
    "PS384": "rsa",
    "PS512": "rsa",
    "ES256": "p256",
    "ES384": "p384",
    "ES512": "p521",
    "EdDSA": "ed25519",
}
"""Every asymmetric algorithm, and the kind of key that signs it."""


def private_key(family: str, number: int = 0) -> Any:
    """Return a private key of a kind; the same each time for a number."""
    return _made(family, number)


@functools.cache
def _made(family: str, number: int) -> Any:
    del number
    match family:
        case "rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "small rsa":
            return rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "p521":
            return ec.generate_private_key(ec.SECP521R1())
        case "secp256k1":
            return ec.generate_private_key(ec.SECP256K1())
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def pem_of(family: str, number: int = 0) -> str:
    """Return the public key as PEM."""
    public = private_key(family, number).public_key()
    text: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def jwk_of(family: str, number: int = 0, **more: Any) -> dict[str, Any]:
    """Return the public key as a JWK; `more` adds or replaces members."""
    public = private_key(family, number).public_key()
    writer = RSAAlgorithm if "rsa" in family else OKPAlgorithm if family.startswith("ed") else ECAlgorithm
    jwk = json.loads(writer.to_jwk(public))
    return {name: value for name, value in jwk.items() if name != "key_ops"} | more


def jwks(*keys: dict[str, Any]) -> bytes:
    """Return a JWK Set."""
    return json.dumps({"keys": list(keys)}).encode()


def generic(key: Any, algorithm: str, kid: str | None = None, **changes: Any) -> str:
    """Return a token of another issuer than the platform, for `alice`; a change to None leaves a claim out."""
    claims = {"sub": "alice", "iss": "https://issuer.example", "exp": in_seconds(600)} | changes
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={} if kid is None else {"kid": kid})


@dataclass(slots=True)
class JwksServer:
    """What it serves is up to the test; `asked` counts the requests."""

    body: bytes = b""
    status: int = 200
    asked: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request once nothing holds it."""
        del request
        self.asked += 1
        body, status = self.body, self.status
        await self.hold.wait()
        return web.Response(body=body, status=status, headers=self.headers)


@contextlib.asynccontextmanager
async def serving_jwks(body: bytes = b"") -> AsyncIterator[JwksServer]:
    """Serve a JWK Set until the block ends."""
    server = JwksServer(body)
    server.hold.set()
    runner = web.ServerRunner(web.Server(server), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
        yield server
    finally:
        server.hold.set()
        await runner.cleanup()
