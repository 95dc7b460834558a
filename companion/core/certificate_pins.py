"""Client certificates that an account is known by. Pure.

cn:device-1                     the common name
subject:CN=device-1,O=Example   the whole subject, as the broker writes it
sha256:2f0a...                  the SHA-256 fingerprint of the certificate (64 hexadecimal digits)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from companion.core.errors import Invalid

_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_MOST_CHARACTERS: Final = 1024


def checked_pin(text: str) -> str:
    """Return a pin as it is compared; a fingerprint may have colons and capitals. Raises `Invalid` for what is none."""
    kind, colon, value = text.partition(":")
    if kind == "sha256":
        value = value.replace(":", "").lower()
        sound = _FINGERPRINT.fullmatch(value) is not None
    else:
        sound = kind in {"cn", "subject"} and 0 < len(value) <= _MOST_CHARACTERS and value.isprintable()
    if not colon or not sound:
        raise Invalid("certificate", text, "cn:NAME, subject:DN or sha256:FINGERPRINT")
    return f"{kind}:{value}"


def sound_pins(texts: Sequence[object]) -> tuple[str, ...]:
    """Return those that are pins, of what others wrote."""
    found = []
    for text in texts:
        try:
            found.append(checked_pin(str(text)))
        except Invalid:
            continue
    return tuple(found)


def is_pinned(pins: Sequence[str], *, common_name: str, subject: str, fingerprint: str) -> bool:
    """Tell whether one of the pins is of this certificate; what is not known of it (empty) fits nothing."""
    shown = {"cn": common_name, "subject": subject, "sha256": fingerprint}
    return any(f"{kind}:{value}" in pins for kind, value in shown.items() if value)
