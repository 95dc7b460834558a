"""Keys that callers of our HTTP ports present: compared in constant time, and made on the first start where none is configured."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from companion.core.errors import Invalid
from companion.settings import Settings


class Keyring:
    """The keys that are valid now; several, so that one can be replaced while both sides still run."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests: tuple[bytes, ...] = ()
        self.use(keys)

    def use(self, keys: Iterable[str]) -> None:
        """Let these be valid from now on, and no others. Raises `ValueError` when there are none, and nothing changes."""
        # Digests have one length, so the comparison tells nothing about the length of a key either.
        digests = tuple(_digest(f"Bearer {key}") for key in keys)
        if not digests:
            raise ValueError("a keyring without a key would refuse everybody")
        self._digests = digests

    def admits(self, authorization: str | None) -> bool:
        """Tell whether this `Authorization` header (RFC 6750 §2.1) carries a valid key; every key is compared, in constant time."""
        if authorization is None:
            return False
        presented = _digest(authorization)
        admitted = False
        for digest in self._digests:
            admitted |= hmac.compare_digest(digest, presented)
        return admitted


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=32).digest()


def hook_keys(settings: Settings) -> Sequence[str]:
    """Return the configured hook keys, or the one made in the data folder."""
    return _keys(settings, [key.get_secret_value() for key in settings.hooks_keys], "hook.key")


def ops_keys(settings: Settings) -> Sequence[str]:
    """Return the configured keys of the operations port, or the one made in the data folder."""
    return _keys(settings, [key.get_secret_value() for key in settings.ops_keys], "ops.key")


def apt_keys(settings: Settings) -> Sequence[str]:
    """Return the keys of long-lived tokens: the configured ones, or the one made in the data folder.

    With the production stores that would be another one in every process: there, none are made.
    """
    if settings.store == "production":
        return [key.get_secret_value() for key in settings.apt_keys]
    return _keys(settings, [key.get_secret_value() for key in settings.apt_keys], "apt.key")


def credential_key(settings: Settings) -> str:
    """Return the configured key under which checked passwords are remembered, or the one made in the data folder."""
    return settings.credential_key.get_secret_value() or ensure_key(settings.data_dir / "credential.key")


def _keys(settings: Settings, configured: Sequence[str], file_name: str) -> Sequence[str]:
    return configured or [ensure_key(settings.data_dir / file_name)]


def ensure_key(path: Path) -> str:
    """Return the key in this file; make the file, readable by its owner only, with 256 random bits when it is missing.

    Several processes that start at once agree on one key. Raises `Invalid` when the file cannot be read, made or is empty.
    """
    try:
        if not path.exists():
            _create(path)
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise Invalid("data_dir", str(path), f"a key file that can be read and written ({problem})") from problem
    if not key:
        raise Invalid("data_dir", str(path), "a key file that is not empty: remove it to have a new key made")
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: whoever comes second keeps the key of the first.
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
