"""All keys that tokens are verified with: those of the settings, and those that are read again in the background."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from broker_hooks.token_keys import VerificationKey, key_of_secret, keys_in_jwks, keys_in_pem
from broker_hooks.token_refresh import RefreshedKeys, from_file, from_url
from companion.background import background
from companion.core.errors import Invalid
from companion.core.model import Deny, Reason
from companion.metrics import Metrics
from companion.settings import Settings

_MOST_TRIED: Final = 16
"""Keys that a token without a `kid` is tried with: each costs a verification, and anybody can send one."""

_NO_KEY: Final = Deny(Reason.TOKEN_INVALID, detail="no key of ours fits the token's alg and kid")
_AWAY: Final = Deny(Reason.KEYS_AWAY, detail="the keys cannot be read at present")


class KeySet:
    """Chooses keys for a token. It is empty, and false, when none are configured."""

    def __init__(self, fixed: Sequence[VerificationKey], refreshed: Sequence[RefreshedKeys] = ()) -> None:
        self._fixed = tuple(fixed)
        self._refreshed = tuple(refreshed)

    def __bool__(self) -> bool:
        return bool(self._fixed or self._refreshed)

    def when_changed(self, call: Callable[[], None]) -> None:
        """Have this called whenever other keys than before hold."""
        for source in self._refreshed:
            source.changed = call

    async def fitting(self, algorithm: str, kid: str) -> Sequence[VerificationKey] | Deny:
        """Return the keys that may have signed a token with this header; `Deny` where there are none.

        A key that has the token's `kid` is the only one; keys without an id (secrets, PEM) are tried when none has. When nothing
        fits, the sources are looked at again, at most once in a while.
        """
        found, exact = self._look(algorithm, kid)
        if self._refreshed and not exact and (kid or not found):
            looked = False
            for source in self._refreshed:
                looked |= await source.ask()
            if looked:
                found, _ = self._look(algorithm, kid)
        if found:
            return found
        return _AWAY if any(source.away for source in self._refreshed) else _NO_KEY

    def _look(self, algorithm: str, kid: str) -> tuple[Sequence[VerificationKey], bool]:
        """Return the fitting keys, and whether it is by the id."""
        keys = (*self._fixed, *(key for source in self._refreshed for key in source.keys))
        able = [key for key in keys if algorithm in key.algorithms]
        named = [key for key in able if kid and key.kid == kid]
        # A token without an id may be of any of them (RFC 7515 §4.1.4: the header is optional).
        return (named, True) if named else ([key for key in able if not key.kid or not kid][:_MOST_TRIED], False)


@contextlib.asynccontextmanager
async def running_keys(settings: Settings, metrics: Metrics) -> AsyncIterator[KeySet]:
    """Read the keys of the settings, and keep reading those that lie elsewhere until the block ends.

    Raises `Invalid` for a file that cannot be read or understood; a URL that is away stops nothing.
    """
    fixed = [key_of_secret(one.get_secret_value().encode()) for one in settings.token_secrets]
    for text in settings.token_keys:
        fixed += keys_in_pem(text, "token_keys")
    for path in settings.token_key_files:
        fixed += keys_in_pem(_text_of(path, "token_key_files"), "token_key_files")
    refreshed = partial(
        RefreshedKeys,
        every=settings.token_jwks_refresh,
        cooldown=settings.token_jwks_cooldown,
        stale=settings.token_jwks_stale,
    )
    sources: list[RefreshedKeys] = []
    async with contextlib.AsyncExitStack() as stack:
        if settings.token_jwks_file is not None:
            path = settings.token_jwks_file
            _checked_set(path)
            parse = partial(keys_in_jwks, secrets=True)
            told = metrics.credentials.told("file")
            sources.append(refreshed(str(path), from_file(path), parse, told=told))
        if settings.token_jwks_url:
            tls = _tls(settings.token_jwks_ca_file)
            http = await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2, ssl=tls), trust_env=False)
            )
            fetch = from_url(http, settings.token_jwks_url, settings.token_jwks_timeout)
            parse = partial(keys_in_jwks, secrets=False)
            told = metrics.credentials.told("url")
            sources.append(refreshed("token_jwks_url", fetch, parse, told=told))
        for source in sources:
            stack.push_async_callback(source.close)
        if sources:
            await stack.enter_async_context(background(*(source.run() for source in sources)))
        yield KeySet(fixed, sources)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as problem:
        raise Invalid("token_jwks_ca_file", str(ca_file), f"certificates as PEM ({problem})") from None


def _text_of(path: Path, place: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as problem:
        raise Invalid(place, str(path), f"a PEM file that can be read ({problem})") from None


def _checked_set(path: Path) -> None:
    """Read the set once: what was configured wrongly is to be told at the start."""
    try:
        keys_in_jwks(path.read_bytes(), secrets=True)
    except (OSError, ValueError) as problem:
        raise Invalid("token_jwks_file", str(path), f"a JWK Set that can be read ({problem})") from None
