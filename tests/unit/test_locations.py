"""Locations of rules: addresses and networks."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from companion.core.errors import Invalid
from companion.core.locations import is_within, locations_of, networks_of
from tests.support.hypo import any_text, examples


@examples(300)
@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_ipv4_by_its_bits(address: ipaddress.IPv4Address, base: ipaddress.IPv4Address, length: int) -> None:
    """An address lies in a network whose leading bits are its own, however the address is written."""
    network = ipaddress.ip_network((base, length), strict=False)
    expected = f"{int(address):032b}"[:length] == f"{int(base):032b}"[:length]
    assert is_within(str(address), networks_of((str(network),))) is expected
    assert is_within(f"::ffff:{address}", networks_of((str(network),))) is expected
    assert is_within(str(address), networks_of((f"::ffff:{network.network_address}/{96 + length}",))) is expected


@examples(300)
@given(st.ip_addresses(v=6), st.ip_addresses(v=6), st.integers(0, 128))
def test_ipv6_by_its_bits(address: ipaddress.IPv6Address, base: ipaddress.IPv6Address, length: int) -> None:
    """The same for IPv6."""
    if address.ipv4_mapped is not None or base.ipv4_mapped is not None:
        return
    network = ipaddress.ip_network((base, length), strict=False)
    expected = f"{int(address):0128b}"[:length] == f"{int(base):0128b}"[:length]
    assert is_within(str(address), networks_of((str(network),))) is expected


def test_families_apart() -> None:
    """Everything of one family holds nothing of the other."""
    assert is_within("10.0.0.1", networks_of(("::/0",))) is False
    assert is_within("2001:db8::1", networks_of(("0.0.0.0/0",))) is False
    assert is_within("10.0.0.1", networks_of(("::/0", "0.0.0.0/0"))) is True


@pytest.mark.parametrize(
    "text", ["", "localhost", "10.0.0", "10.0.0.256", "10.0.0.1:1883", "[::1]", "10.0.0.1 ", "undefined", "1", "::g"]
)
def test_what_is_no_address(text: str) -> None:
    """It is neither within nor without."""
    assert is_within(text, networks_of(("0.0.0.0/0", "::/0"))) is None


@examples(300)
@given(any_text())
def test_any_text(text: str) -> None:
    """Nothing that could stand for an address raises."""
    assert is_within(text, networks_of(("10.0.0.0/8",))) in (True, False, None)


@pytest.mark.parametrize(
    "bad", ["", "10.0.0.1/8", "10.0.0.0/33", "10/8", "10.0.0.0-10.0.0.9", "example.org", "::/129", None, 10, True]
)
def test_what_is_no_location(bad: object) -> None:
    """It is named with its place; a network with bits beside its own is a slip of somebody's pen."""
    with pytest.raises(Invalid) as caught:
        locations_of(["10.0.0.1", bad])
    assert caught.value.field == "locations[1]"


def test_a_list_is_asked_for() -> None:
    """A text is no list of locations."""
    with pytest.raises(Invalid, match="a list"):
        locations_of("10.0.0.1")
