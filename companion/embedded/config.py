"""What the embedded broker needs to know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from companion.core.errors import Invalid


@dataclass(frozen=True, slots=True)
class EmbeddedBrokerConfig:
    """Where the broker listens, and whom it asks.

    `port` 0 picks a free one. `hooks_url` is the base of `/mqtt/auth` and `/mqtt/authz`; `hook_key` is presented as a bearer token.
    Of hooks with TLS certificates of `hooks_ca` are trusted instead of the system's; `hooks_client_cert`, with its key in the same
    file, is presented to them.
    `request_timeout` (seconds) bounds one question, from the wait for a connection to the end of the answer; past it the answer
    is no. Raises `Invalid` naming the field that is wrong.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    hooks_url: str = "http://127.0.0.1:8080"
    hook_key: str = field(default="", repr=False)
    hooks_ca: Path | None = None
    hooks_client_cert: Path | None = None
    request_timeout: float = 5.0

    def __post_init__(self) -> None:
        """Check every field."""
        if not 0 <= self.port <= 65_535:  # noqa: PLR2004 - the range of TCP ports
            raise Invalid("port", self.port, "0 to 65535")
        if not self.hook_key.isascii() or not self.hook_key.isprintable():
            raise Invalid("hook_key", "***", "printable ASCII, as an HTTP header can carry it")
        if not (math.isfinite(self.request_timeout) and self.request_timeout > 0):
            raise Invalid("request_timeout", self.request_timeout, "seconds, more than 0")
        try:
            url = urlsplit(self.hooks_url)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            usable = False
        else:
            # A user name in the URL would become a second Authorization header; EMQX refuses it as well.
            usable = usable and "@" not in url.netloc and not url.query and not url.fragment
        if not usable:
            raise Invalid("hooks_url", self.hooks_url, "http(s)://host[:port][/path], without user, query or fragment")
