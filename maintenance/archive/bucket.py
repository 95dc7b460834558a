"""A bucket of S3-compatible storage: the requests that archives are made of, and what their refusals mean.

The one module that knows boto3 (extra `s3`), which is imported when the first request is made. Every method takes its time: call it
in a thread; any number may be in the same bucket at once. All of them raise `Transient` when the storage is away or busy after all
attempts, `Invalid` for a bucket, a key or a certificate that will not do, and `Permanent` for whatever else is refused.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from companion.core.errors import CompanionError, Invalid, Permanent, Transient, shown
from companion.settings import Settings
from companion.settings.archives import BucketPlace

_CONNECT_SECONDS: Final = 5.0
_CONNECTIONS: Final = 10
_LINE: Final = 200
_BUSY: Final = frozenset({"SlowDown", "RequestTimeout", "InternalError", "OperationAborted", "NoSuchUpload"})
"""Codes after which the same may be tried again; an upload that is gone is begun anew."""

_REGION: Final = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"})
_MISSING: Final = frozenset({"NoSuchKey", "NotFound", "404"})
_SERVER_ERROR: Final = 500
_BUSY_STATUS: Final = (408, 429)
_ELSEWHERE: Final = (301, 307)
_DENIED: Final = (401, 403)


class _BrokeOff(Transient):
    """An answer that began and did not end."""


class Upload(NamedTuple):
    """A multipart upload that is not complete."""

    key: str
    id: str
    begun_at: dt.datetime


class Version(NamedTuple):
    """An object as it was when somebody looked: its bytes, and the tag that names them."""

    size: int
    tag: str


def require_boto3() -> None:
    """Raise `Invalid`, naming the extra, where boto3 is not installed."""
    if find_spec("boto3") is None:
        raise Invalid(
            "cleaner_archive",
            "s3://",
            "the client of S3-compatible storage is an extra that is not installed: pip install 'mqtt-companion[s3]'",
        )


class Bucket:
    """The objects of one bucket, by their keys."""

    def __init__(self, place: BucketPlace, settings: Settings) -> None:
        self._name = place.bucket
        self._settings = settings
        self._lock = threading.Lock()
        self._made: Any = None

    def put(self, key: str, content: bytes, kind: str) -> None:
        """Store an object whole; `kind` is its media type."""
        with self._asked(key):
            self._client.put_object(Bucket=self._name, Key=key, Body=content, ContentType=kind, **self._encrypted)

    def begin(self, key: str, kind: str) -> str:
        """Begin an object that comes in parts; return the id of the upload."""
        with self._asked(key):
            answer = self._client.create_multipart_upload(
                Bucket=self._name, Key=key, ContentType=kind, **self._encrypted
            )
            return str(answer["UploadId"])

    def part(self, key: str, upload: str, number: int, content: bytes) -> str:
        """Store a part (from 1); return its tag."""
        with self._asked(key):
            answer = self._client.upload_part(
                Bucket=self._name, Key=key, UploadId=upload, PartNumber=number, Body=content
            )
            return str(answer["ETag"])

    def complete(self, key: str, upload: str, tags: Sequence[str]) -> None:
        """Make an object of its parts."""
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
        with self._asked(key):
            self._client.complete_multipart_upload(
                Bucket=self._name, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )

    def abort(self, key: str, upload: str) -> None:
        """Give up an upload; one that is gone is gone."""
        with contextlib.suppress(Transient), self._asked(key):
            self._client.abort_multipart_upload(Bucket=self._name, Key=key, UploadId=upload)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Yield the uploads that are not complete."""
        with self._asked(prefix):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._name, Prefix=prefix):
                for one in page.get("Uploads", ()):
                    yield Upload(one["Key"], one["UploadId"], one["Initiated"])

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with `prefix`, in their order."""
        with self._asked(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix):
                for one in page.get("Contents", ()):
                    yield one["Key"]

    def look(self, key: str) -> Version:
        """Return how large an object is now."""
        with self._asked(key):
            answer = self._client.head_object(Bucket=self._name, Key=key)
            return Version(int(answer["ContentLength"]), str(answer["ETag"]))

    def get(self, key: str) -> bytes:
        """Return an object whole."""
        return self._read(key, {})

    def get_range(self, key: str, tag: str, start: int, size: int) -> bytes:
        """Return bytes of the very object that was looked at; raises `Permanent` when it is another one by now."""
        return self._read(key, {"Range": f"bytes={start}-{start + size - 1}", "IfMatch": tag})

    def _read(self, key: str, which: Mapping[str, str]) -> bytes:
        left = self._settings.s3_attempts
        while True:
            left -= 1
            try:
                with self._asked(key):
                    # The client itself tries again until an answer begins, but not when it breaks off.
                    return bytes(self._client.get_object(Bucket=self._name, Key=key, **which)["Body"].read())
            except _BrokeOff:
                if not left:
                    raise

    @property
    def _encrypted(self) -> Mapping[str, str]:
        asked = self._settings.s3_encryption
        return {"ServerSideEncryption": asked} if asked else {}

    @property
    def _client(self) -> Any:  # noqa: ANN401 - boto3 makes its methods at run time and ships no types
        with self._lock:
            if self._made is None:
                self._made = _client(self._settings)
            return self._made

    @contextlib.contextmanager
    def _asked(self, key: str) -> Iterator[None]:
        """Turn what the client raises into our errors."""
        # Only here: boto3 is an extra, and takes a while to import.
        from botocore import exceptions as boto  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415

        where = f"s3://{self._name}/{key}"
        try:
            yield
        except boto.ClientError as problem:
            raise self._refused(where, problem.response) from None
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound) as problem:
            raise Invalid("s3_access_key", "none", f"an access key and its secret ({_line(problem)})") from None
        except boto.SSLError as problem:
            if "CERTIFICATE_VERIFY_FAILED" not in str(problem):
                raise Transient(f"{where}: {_line(problem)}") from None
            raise Invalid(
                "s3_endpoint", self._settings.s3_endpoint, f"one whose certificate is trusted ({_line(problem)})"
            ) from None
        except (boto.IncompleteReadError, boto.ResponseStreamingError, boto.ReadTimeoutError) as problem:
            raise _BrokeOff(f"{where}: {_line(problem)}") from None
        except (boto.ConnectionError, boto.HTTPClientError, ResponseParserError) as problem:
            raise Transient(f"{where}: {_line(problem)}") from None
        except boto.BotoCoreError as problem:
            raise Permanent(f"{where}: {_line(problem)}") from None

    def _refused(self, where: str, answer: Mapping[str, Any]) -> CompanionError:
        error = answer.get("Error", {})
        status, code = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), str(error.get("Code", ""))
        why = _line(f"{code}: {error.get('Message', '')}")
        if status in _BUSY_STATUS or status >= _SERVER_ERROR or code in _BUSY:
            return Transient(f"{where}: {why}")
        if code == "NoSuchBucket":
            return Invalid("cleaner_archive", f"s3://{self._name}", "a bucket that exists")
        if code in _REGION or status in _ELSEWHERE:
            return Invalid("s3_region", self._settings.s3_region, f"the region of s3://{self._name} ({why})")
        if status in _DENIED:
            return Invalid("cleaner_archive", f"s3://{self._name}", f"a bucket that these credentials may use ({why})")
        return Permanent(f"{where}: {'it is not there' if code in _MISSING else why}")


def _client(settings: Settings) -> Any:  # noqa: ANN401 - likewise
    import boto3  # noqa: PLC0415 - an extra
    from botocore.config import Config  # noqa: PLC0415

    certificates = settings.s3_ca_file
    if certificates is not None and not certificates.is_file():
        raise Invalid("s3_ca_file", str(certificates), "a file of certificates that can be read")
    if not settings.s3_verify:
        import urllib3  # noqa: PLC0415 - comes with boto3

        # Whoever turned it off knows; a warning with every request tells nothing new.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    path = settings.s3_addressing == "path" or (settings.s3_addressing == "auto" and bool(settings.s3_endpoint))
    config = Config(
        connect_timeout=min(_CONNECT_SECONDS, settings.s3_timeout),
        read_timeout=settings.s3_timeout,
        retries={"mode": "standard", "total_max_attempts": settings.s3_attempts},
        max_pool_connections=_CONNECTIONS,
        s3={"addressing_style": "path" if path else "virtual"},
        # Newer checksums are unknown to many servers; what was written is read back and compared anyway.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value() or None,
        aws_secret_access_key=settings.s3_secret_key.get_secret_value() or None,
        verify=str(certificates) if certificates is not None else settings.s3_verify,
        config=config,
    )


def _line(problem: object) -> str:
    return shown(" ".join(str(problem).split()), _LINE)
