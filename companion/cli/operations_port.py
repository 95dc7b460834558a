"""How commands reach the operations port of a running service: its address, and TLS as the settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from companion.settings import Settings

if TYPE_CHECKING:
    import aiohttp


def operations_url(settings: Settings, url: str) -> str:
    """Return `url` if one is given, else where the settings put the port."""
    if url:
        return url.rstrip("/")
    host = f"[{settings.ops_host}]" if ":" in settings.ops_host else settings.ops_host
    return f"{'http' if settings.ops_tls_cert is None else 'https'}://{host}:{settings.ops_port}"


def operations_connector(settings: Settings) -> aiohttp.TCPConnector:
    """Return what connects to it: it trusts `ops_ca_file`, presents `ops_client_cert`. Raises `Invalid` for a file of no use."""
    # Takes longer to import than most commands run.
    import aiohttp  # noqa: PLC0415 - see above

    from companion.tls import client_context  # noqa: PLC0415 - see above

    ca, cert = settings.ops_ca_file, settings.ops_client_cert
    if ca is None and cert is None:
        return aiohttp.TCPConnector()
    return aiohttp.TCPConnector(ssl=client_context(ca, cert, names=("ops_ca_file", "ops_client_cert")))
