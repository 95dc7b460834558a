"""TLS on our own ports: settings."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from companion.settings.kinds import Group, Seconds

_PORTS = ("hooks", "ops")


class ListenerSettings(Group):
    """TLS on our own ports."""

    hooks_tls_cert: Path | None = Field(
        None, description="Certificate of the hooks, and those between it and its CA (PEM)"
    )
    hooks_tls_key: Path | None = Field(None, description="Its key (PEM)")
    hooks_tls_key_password: SecretStr = Field(SecretStr(""), description="Password of that key, if it is encrypted")
    hooks_tls_client_ca: Path | None = Field(
        None, description="CA whose certificates callers of the hooks must present, beside a hook key"
    )
    ops_tls_cert: Path | None = Field(None, description="The same for the operations port")
    ops_tls_key: Path | None = Field(None, description="Its key (PEM)")
    ops_tls_key_password: SecretStr = Field(SecretStr(""), description="Password of that key, if it is encrypted")
    ops_tls_client_ca: Path | None = Field(
        None, description="CA whose certificates callers of the operations port must present, metrics and health too"
    )
    ops_ca_file: Path | None = Field(
        None, description="What commands trust at the operations port instead of the system's certificates"
    )
    ops_client_cert: Path | None = Field(
        None, description="Certificate that commands present there, its key in the file"
    )
    tls_poll: Seconds = Field(5.0, description="How often the files of certificates are looked at")

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        for port in _PORTS:
            cert, key = getattr(self, f"{port}_tls_cert"), getattr(self, f"{port}_tls_key")
            if (cert is None) is not (key is None):
                raise ValueError(
                    f"{port}_tls_{'cert' if cert is None else 'key'}: a certificate and its key, or neither"
                )
            if getattr(self, f"{port}_tls_client_ca") is not None and cert is None:
                raise ValueError(f"{port}_tls_client_ca: only with {port}_tls_cert")
        return self
