"""Digests by which copies are compared with what they are copies of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


def plain_json(value: object) -> bytes:
    """Return a value as JSON, the same for the same value in whatever order its fields come."""
    return msgspec.json.encode(value, order="deterministic")


def digest_of(document: Mapping[str, Any]) -> str:
    """Return the digest of a document."""
    return hashlib.blake2b(plain_json(document), digest_size=16).hexdigest()


def digest_of_all(digests: Sequence[str]) -> str:
    """Return what a mirror's `digest` is for documents with these digests, in the order of their ids."""
    return hashlib.sha1("\n".join(digests).encode(), usedforsecurity=False).hexdigest()
