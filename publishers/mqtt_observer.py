"""What a delivery tells those who count and log."""

from __future__ import annotations

from typing import Protocol


class DeliveryObserver(Protocol):
    """Called on the event loop as things happen: each call is quick and does not raise. No argument holds a secret."""

    def connected(self) -> None:
        """Tell that the broker accepted a connection; every call after the first is a reconnect."""
        ...

    def connect_failed(self, reason: str) -> None:
        """Tell that an attempt to connect failed; another follows after the back-off."""
        ...

    def disconnected(self, reason: str) -> None:
        """Tell that an accepted connection ended, also by our own closing."""
        ...

    def acknowledged(self, seconds: float) -> None:
        """Tell that the broker took a message, so many seconds after it was (last) sent."""
        ...

    def refused(self, reason_code: int) -> None:
        """Tell that a message ended with `Refused` or `Unsendable`."""
        ...


class Unobserved:
    """Nobody counts."""

    def connected(self) -> None:
        """Do nothing."""

    def connect_failed(self, reason: str) -> None:
        """Do nothing."""

    def disconnected(self, reason: str) -> None:
        """Do nothing."""

    def acknowledged(self, seconds: float) -> None:
        """Do nothing."""

    def refused(self, reason_code: int) -> None:
        """Do nothing."""
