"""Addresses of clients: what counts as one place, and which places are trusted."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Final

_IPV6_NETWORK: Final = 64
"""A network of this size belongs to one customer (RFC 6177)."""


@functools.lru_cache(maxsize=8192)
def place_of(peer_host: str) -> str:
    """Return the address, of IPv6 the network; what is no address stands for itself."""
    address = _address(peer_host)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
    return peer_host if address is None else str(address)


def is_address(peer_host: str) -> bool:
    """Tell whether this is an IP address."""
    return _address(peer_host) is not None


class Places:
    """A list of addresses and networks (CIDR), of IPv4 and IPv6."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network, strict=False) for network in networks)
        self.holds = functools.lru_cache(maxsize=8192)(self._holds) if self._networks else lambda _: False

    def _holds(self, peer_host: str) -> bool:
        address = _address(peer_host)
        return address is not None and any(
            address in network for network in self._networks if network.version == address.version
        )


def _address(peer_host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(peer_host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
