"""Long-lived tokens: their form, and what a store keeps of them. Pure.

    apt_0123456789abcdef_<43 characters>        prefix, id, secret (256 random bits)

A store has the id and a keyed digest of the whole; the key is the deployment's and in no store, so a copy of the store gives nobody
a token, nor a way to try for one.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from companion.core.errors import Invalid

WHOLE: Final = "whole"
SCOPES: Final = ("publish", "subscribe", WHOLE)

_FORM: Final = re.compile(r"apt_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class LongToken:
    """What is kept of a token: as whom it connects, what of that it may (`SCOPES`), until when (Unix seconds), from where (CIDR).

    No addresses: from anywhere.
    """

    id: str
    digest: str = field(repr=False)
    username: str
    scopes: tuple[str, ...]
    name: str = ""
    expires_at: int | None = None
    addresses: tuple[str, ...] = ()
    created_at: int = 0

    def admits(self, peer_host: str) -> bool:
        """Tell whether it may be used at this address."""
        if not self.addresses:
            return True
        try:
            address = ipaddress.ip_address(peer_host)
            # EMQX listens on `::` by default and then tells IPv4 addresses so.
            mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
            return any((mapped or address) in ipaddress.ip_network(one) for one in self.addresses)
        except ValueError:
            return False


def new_token() -> tuple[str, str]:
    """Return the id of a new token, and the token."""
    token_id = secrets.token_hex(8)
    return token_id, f"apt_{token_id}_{secrets.token_urlsafe(32)}"


def id_in(text: str) -> str | None:
    """Return the id in a text that has the form of a token; None for any other."""
    match = _FORM.fullmatch(text)
    return match[1] if match else None


def digest_of(token: str, key: str) -> str:
    """Return what a store keeps of a token under this key."""
    return hmac.new(key.encode(), b"long-lived token\0" + token.encode(), hashlib.sha256).hexdigest()


def is_of(token: str, digest: str, keys: Sequence[str]) -> bool:
    """Tell whether the digest is that of this token under one of the keys; each is compared, in constant time."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(digest_of(token, key), digest)
    return found


def checked_scopes(listed: Sequence[str]) -> tuple[str, ...]:
    """Return the scopes, each once. Raises `Invalid` for none, or another word."""
    if not listed or any(one not in SCOPES for one in listed):
        raise Invalid("scope", ", ".join(listed), f"one or more of {', '.join(SCOPES)}")
    return tuple(dict.fromkeys(listed))


def checked_addresses(listed: Sequence[str]) -> tuple[str, ...]:
    """Return the networks as they are compared. Raises `Invalid` for what is none."""
    found = []
    for one in listed:
        try:
            found.append(str(ipaddress.ip_network(one)))
        except ValueError:
            raise Invalid("address", one, "an address or a network, such as 10.0.0.0/8 or 2001:db8::/48") from None
    return tuple(dict.fromkeys(found))
