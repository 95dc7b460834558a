"""JWK Sets behind a URL or in a file: when they are looked at, and what serves while they are away."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.issuers import ALL, issuer, reason_of
from tests.support.jwks import JwksServer, generic, jwk_of, jwks, private_key, serving_jwks
from tests.support.waiting import wait_until


async def test_a_url(tmp_path: Path, logged: io.StringIO) -> None:
    """Keys are fetched once and serve by their ids; a symmetric key that anybody could fetch is none."""
    public = {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "h"}
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"), jwk_of("p256", kid="b"), public)) as server:
        algorithms = (*ALL, "HS256")
        async with issuer(tmp_path, token_jwks_url=server.url, token_algorithms=algorithms) as service:
            for key, algorithm, kid in (("rsa", "RS256", "a"), ("rsa", "PS512", "a"), ("p256", "ES256", "b")):
                assert (await service.login("alice", generic(private_key(key), algorithm, kid)))["result"] == "allow"
            assert await reason_of(service, logged, generic("secret" * 8, "HS256", "h")) == "token_invalid"
            assert server.asked <= 2
            assert await service.metric("companion_token_key_looks_total", place="url", outcome="ok") == server.asked


async def test_an_unknown_kid_makes_us_look_once(tmp_path: Path, logged: io.StringIO) -> None:
    """A new key is found by the first token that names it; a hundred invented ids cause no further request."""
    async with serving_jwks(jwks(jwk_of("rsa", kid="old"))) as server:
        settings = {"token_jwks_url": server.url, "token_jwks_cooldown": 600.0}
        async with issuer(tmp_path, **settings) as service:
            assert (await service.login("alice", generic(private_key("rsa"), "RS256", "old")))["result"] == "allow"
            asked = server.asked
            server.body = jwks(jwk_of("rsa", kid="old"), jwk_of("rsa", 1, kid="new"))
            invented = [generic(private_key("rsa", 1), "RS256", f"new-{number}") for number in range(100)]
            answers = await asyncio.gather(*(service.login("alice", one) for one in invented))
            assert {answer["result"] for answer in answers} == {"deny"}
            assert server.asked == asked
        async with issuer(tmp_path / "2", token_jwks_url=server.url, token_jwks_cooldown=0.05) as service:
            await wait_until(lambda: server.asked > asked, what="the first look")
            server.body = jwks(jwk_of("p256", kid="newest"))
            newest = generic(private_key("p256"), "ES256", "newest")

            async def known() -> bool:
                return bool((await service.login("alice", newest))["result"] == "allow")

            await eventually(known, what="the newest key is known")
            # What the set does not hold any more is forgotten, also by the cache of verified tokens.
            gone = generic(private_key("rsa"), "RS256", "old")
            assert await reason_of(service, logged, gone) == "token_invalid"


async def test_a_key_that_is_withdrawn(tmp_path: Path, logged: io.StringIO) -> None:
    """A token that was verified and remembered is refused once its key has gone from the set."""
    async with (
        serving_jwks(jwks(jwk_of("rsa", kid="a"), jwk_of("p256", kid="b"))) as server,
        issuer(tmp_path, token_jwks_url=server.url, token_jwks_refresh=0.05) as service,
    ):
        known = generic(private_key("rsa"), "RS256", "a")
        assert (await service.login("alice", known))["result"] == "allow"
        server.body = jwks(jwk_of("p256", kid="b"))

        async def refused() -> bool:
            return await reason_of(service, logged, known) == "token_invalid"

        await eventually(refused, what="the token is refused")


async def two_more_looks(server: JwksServer) -> None:
    asked = server.asked
    await wait_until(lambda: server.asked > asked + 1, what="two more looks")


async def test_the_old_set_serves_while_the_url_is_away(tmp_path: Path, logged: io.StringIO) -> None:
    """Refusals, rubbish and too much of it leave the last good set in force; after its time nobody is let in by it."""
    known = generic(private_key("rsa"), "RS256", "a")
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"))) as server:
        async with issuer(tmp_path, token_jwks_url=server.url, token_jwks_refresh=0.03) as service:
            assert (await service.login("alice", known))["result"] == "allow"
            for server.status, server.body in (
                (500, b""),
                (200, b"no JSON"),
                (200, b'{"keys":[]}'),
                (200, b" " * 300_000),
            ):
                await two_more_looks(server)
                assert (await service.login("alice", known))["result"] == "allow"
            assert "cannot be read" in logged.getvalue()
            assert await service.metric("companion_token_key_looks_total", place="url", outcome="failed") >= 4
        server.status, server.body = 200, jwks(jwk_of("rsa", kid="a"))
        settings = {"token_jwks_refresh": 0.03, "token_jwks_stale": 1.0}
        async with issuer(tmp_path / "2", token_jwks_url=server.url, **settings) as service:
            assert (await service.login("alice", known))["result"] == "allow"
            server.status = 503

            async def refused() -> bool:
                return await reason_of(service, logged, known) == "keys_away"

            await eventually(refused, what="the set is too old")


async def test_a_url_that_is_slow(tmp_path: Path, logged: io.StringIO) -> None:
    """A token waits no longer than the time-out for keys that do not come, and is refused with a reason of its own."""
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"))) as server:
        server.hold.clear()
        async with issuer(tmp_path, token_jwks_url=server.url, token_jwks_timeout=0.2) as service:
            known = generic(private_key("rsa"), "RS256", "a")
            assert await reason_of(service, logged, known) == "keys_away"
            server.hold.set()

            async def admitted() -> bool:
                return bool((await service.login("alice", known))["result"] == "allow")

            await eventually(admitted, what="the keys have come")


async def test_a_redirection_is_not_followed(tmp_path: Path, logged: io.StringIO) -> None:
    """Whoever can redirect the request brings no keys of their own."""
    async with serving_jwks(jwks(jwk_of("rsa", kid="a"))) as other, serving_jwks() as server:
        server.status, server.headers = 302, {"Location": other.url}
        async with issuer(tmp_path, token_jwks_url=server.url) as service:
            assert await reason_of(service, logged, generic(private_key("rsa"), "RS256", "a")) == "keys_away"
        assert other.asked == 0


async def test_a_file_is_read_again(tmp_path: Path) -> None:
    """A JWK Set in a file is replaced while the service runs."""
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(jwk_of("rsa", kid="a")))
    async with issuer(tmp_path, token_jwks_file=path, token_jwks_refresh=0.05) as service:
        assert (await service.login("alice", generic(private_key("rsa"), "RS256", "a")))["result"] == "allow"
        path.write_bytes(jwks(jwk_of("p521", kid="b")))

        async def admitted() -> bool:
            return bool((await service.login("alice", generic(private_key("p521"), "ES512", "b")))["result"] == "allow")

        await eventually(admitted, what="the new key is known")
