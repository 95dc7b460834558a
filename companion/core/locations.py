"""Locations: addresses and networks that a rule is limited to. Pure.

An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`, as a socket for both shows it) is the IPv4 address.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from companion.core.errors import Invalid

MAX_LOCATIONS: Final = 1000
"""Most locations of one rule."""

Networks = tuple[IPv4Network | IPv6Network, ...]

_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def check_locations(locations: Sequence[str], field: str = "locations") -> None:
    """Raise `Invalid` naming the field for what is neither an address nor a network."""
    if len(locations) > MAX_LOCATIONS:
        raise Invalid(field, f"more than {MAX_LOCATIONS}", f"at most {MAX_LOCATIONS} locations")
    for number, location in enumerate(locations):
        if _network(location) is None:
            raise Invalid(
                f"{field}[{number}]", location, "an address or a network such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
            )


def locations_of(values: object, field: str = "locations") -> tuple[str, ...]:
    """Return a list of texts as locations; raise `Invalid` naming the field."""
    if not isinstance(values, list | tuple):
        raise Invalid(field, type(values).__name__, "a list of addresses and networks")
    check_locations(values, field)
    return tuple(values)


@lru_cache(maxsize=4096)
def networks_of(locations: tuple[str, ...]) -> Networks:
    """Return checked locations as networks, the same for equal ones."""
    return tuple(network for location in locations if (network := _network(location)) is not None)


def is_within(peer_host: str, networks: Networks) -> bool | None:
    """Tell whether the address lies in one of the networks; None for what is no address."""
    try:
        address: IPv4Address | IPv6Address = ip_address(peer_host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _network(location: object) -> IPv4Network | IPv6Network | None:
    if not isinstance(location, str):
        return None
    try:
        network = ip_network(location)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network
