"""Long-lived tokens: form, digest, limits."""

from __future__ import annotations

import pytest

from companion.core.errors import Invalid
from companion.core.long_tokens import (
    LongToken,
    checked_addresses,
    checked_scopes,
    digest_of,
    id_in,
    is_of,
    new_token,
)


def test_a_new_token() -> None:
    """Each is another, has a form of its own, and holds its id."""
    made = [new_token() for _ in range(100)]
    assert len({text for _, text in made}) == 100
    for token_id, text in made:
        assert text.startswith("apt_")
        assert id_in(text) == token_id
    text = made[0][1]
    for other in ("", "apt", "apt-get", text[:-1], text + "x", f" {text}", text.upper(), text + "\n", text[4:]):
        assert id_in(other) is None


def test_digests() -> None:
    """A digest is of one token under one key, and tells neither."""
    _, text = new_token()
    _, other = new_token()
    digest = digest_of(text, "key")
    assert is_of(text, digest, ["key"])
    assert is_of(text, digest, ["new key", "key"])
    assert not is_of(text, digest, ["other"])
    assert not is_of(text, digest, [])
    assert not is_of(other, digest, ["key"])
    assert text not in digest


@pytest.mark.parametrize(
    ("addresses", "host", "admitted"),
    [
        ((), "", True),
        ((), "anything", True),
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", True),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", True),
        (("2001:db8::/32",), "10.0.0.1", False),
        (("0.0.0.0/0",), "", False),
        (("0.0.0.0/0",), "nowhere", False),
        (("10.0.0.1/32",), "10.0.0.1:1883", False),
    ],
)
def test_addresses(addresses: tuple[str, ...], host: str, admitted: bool) -> None:  # noqa: FBT001 - what is expected
    """Within one of the networks, in either notation of IPv4; an address that is none is in none."""
    assert LongToken("a", "d", "u", ("whole",), addresses=addresses).admits(host) is admitted


def test_what_is_checked() -> None:
    """Scopes and networks are kept as they are compared; what is none is refused by name."""
    assert checked_scopes(["publish", "publish"]) == ("publish",)
    assert checked_addresses(["10.0.0.1", "2001:DB8::/32", "10.0.0.1/32"]) == ("10.0.0.1/32", "2001:db8::/32")
    for scopes in ([], ["all"], ["publish", ""]):
        with pytest.raises(Invalid, match="scope"):
            checked_scopes(scopes)
    for address in ("", "10.0.0.1/8", "host", "10.0.0.0/33"):
        with pytest.raises(Invalid, match="address"):
            checked_addresses([address])
