"""What a client is called whose user name is a token (a JWT). Pure.

A broker that is told to take the token from the user name sends it with every question, and would have it logged, audited and
used as a key everywhere. So where requests come in, such a user name is replaced by a name made of its digest; nothing behind
that door sees the token, but for who verifies it.
"""

from __future__ import annotations

import hashlib
from typing import Final

_PREFIX: Final = "jwt:"
_OPENING: Final = "eyJ"
"""The first characters of every JSON object that begins with a key, in base64url."""

_DOTS: Final = 2


def holds_token(username: str) -> bool:
    """Tell whether a user name is a token by its form: a JWS in compact serialization (RFC 7515 §7.1)."""
    return username.startswith(_OPENING) and username.count(".") == _DOTS


def name_of_token(token: str) -> str:
    """Return the name of whoever sends this token as the user name; the same in every process."""
    return _PREFIX + hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def is_name_of_token(username: str) -> bool:
    """Tell whether this is such a name. Somebody who is really called so has an account of that name or is nobody."""
    return username.startswith(_PREFIX)
