"""Pins of client certificates."""

from __future__ import annotations

import pytest

from companion.core.certificate_pins import checked_pin, is_pinned, sound_pins
from companion.core.errors import Invalid

PRINT = "ab" * 32


def test_pins() -> None:
    """A fingerprint is compared in one notation; names and subjects as they are."""
    colons = ":".join(["AB"] * 32)
    assert checked_pin(f"sha256:{colons}") == f"sha256:{PRINT}"
    assert checked_pin("cn:a:b") == "cn:a:b"
    assert checked_pin("subject:CN=ä,O=b") == "subject:CN=ä,O=b"


@pytest.mark.parametrize(
    "text", ["", "cn", "cn:", "device-1", "sha256:ab", f"sha256:{PRINT}0", "sha1:ab", "cn:a\n", "CN:a"]
)
def test_what_is_no_pin(text: str) -> None:
    """It is refused, and left out of what others wrote."""
    with pytest.raises(Invalid, match="certificate"):
        checked_pin(text)
    assert sound_pins([text, "cn:a", 7]) == ("cn:a",)


def test_what_is_pinned() -> None:
    """One pin is enough, of the kind that it is; what is not known fits nothing."""
    pins = ("cn:a", f"sha256:{PRINT}")
    assert is_pinned(pins, common_name="a", subject="", fingerprint="")
    assert is_pinned(pins, common_name="", subject="x", fingerprint=PRINT)
    assert not is_pinned(pins, common_name="b", subject="a", fingerprint="a")
    assert not is_pinned(("cn:", "subject:"), common_name="", subject="", fingerprint="")
    assert not is_pinned((), common_name="a", subject="a", fingerprint="a")
