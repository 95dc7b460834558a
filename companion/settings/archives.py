"""Where archives are kept, and how S3-compatible storage is reached: settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from companion.settings.kinds import Group, Seconds

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9!_.*'()@+=-]+/)*[A-Za-z0-9!_.*'()@+=-]+")
_MOST_PREFIX: Final = 512


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """A place in S3-compatible storage: a bucket, and what the keys in it begin with (without a slash at either end)."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}{self.prefix and f'/{self.prefix}'}"


def place_of(text: str) -> Path | BucketPlace:
    """Return the place that `text` names: a folder, or `s3://bucket/prefix`. Raises ValueError that says what is allowed."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Path(text)
    if scheme[1] != "s3":
        raise ValueError("a folder, or s3://bucket/prefix")
    found = _BUCKET.fullmatch(text)
    if found is None or ".." in found[1]:
        raise ValueError("s3://bucket/prefix with a bucket of 3 to 63 lower case letters, digits, hyphens and dots")
    prefix = (found[2] or "").strip("/")
    if prefix and (len(prefix) > _MOST_PREFIX or not _PREFIX.fullmatch(prefix)):
        raise ValueError(
            f"s3://bucket/prefix with a prefix of up to {_MOST_PREFIX} letters, digits and !_.*'()@+=- between single slashes"
        )
    return BucketPlace(found[1], prefix)


def _place(value: object) -> object:
    return place_of(value) if isinstance(value, str) else value


Place = Annotated[Path | BucketPlace, BeforeValidator(_place)]


class ArchiveSettings(Group):
    """Where archives are kept, and how S3-compatible storage is reached."""

    cleaner_archive: Place | None = Field(
        None,
        description="Folder of the archives, shared by all replicas, or s3://bucket/prefix; data_dir/archive without it",
    )
    s3_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^/@?#\s]+/?)?$",
        description="Address of S3-compatible storage, such as https://storage.example:9000; that of AWS without it",
    )
    s3_region: str = Field(
        "us-east-1", pattern=r"^[A-Za-z0-9-]{1,64}$", description="Its region; many servers of one's own take any"
    )
    s3_access_key: SecretStr = Field(
        SecretStr(""), description="Access key; without it the client's own search (AWS_ACCESS_KEY_ID, ~/.aws, a role)"
    )
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Its secret")
    s3_addressing: Literal["auto", "path", "host"] = Field(
        "auto", description="Where requests name the bucket; auto: in the path with s3_endpoint, else in the host name"
    )
    s3_verify: bool = Field(default=True, description="Verify the certificate of the storage")
    s3_ca_file: Path | None = Field(None, description="Certificates to trust instead of the client's")
    s3_timeout: Seconds = Field(30.0, description="Longest wait for the storage to say something")
    s3_attempts: Annotated[int, Field(ge=1, le=20)] = Field(
        4, description="How often a request is made before the storage counts as away"
    )
    s3_encryption: Literal["", "AES256", "aws:kms"] = Field(
        "", description="Encryption that is asked of the storage: AES256 or aws:kms; without it what the bucket does"
    )

    @model_validator(mode="after")
    def _s3_keys(self) -> Self:
        if not isinstance(self.cleaner_archive, BucketPlace):
            return self
        for one, other in (("s3_secret_key", "s3_access_key"), ("s3_access_key", "s3_secret_key")):
            if getattr(self, other).get_secret_value() and not getattr(self, one).get_secret_value():
                raise ValueError(f"{one}: needed with {other}")
        return self

    @model_validator(mode="after")
    def _s3_certificates(self) -> Self:
        if self.s3_ca_file is not None and not self.s3_verify:
            raise ValueError("s3_ca_file: not with s3_verify = false")
        return self
