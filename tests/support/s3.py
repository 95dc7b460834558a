"""A real HTTP server that speaks S3 (moto's), in a process of its own, and what tests do with it behind the service's back."""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Final

import boto3

from companion.settings import Settings
from companion.settings.archives import BucketPlace
from tests.support.service import make_settings

KEY: Final = "the-access-key-of-the-tests"
SECRET: Final = "the-secret-key-of-the-tests"
PREFIX: Final = "old/things"

# Parts may be small, so that tests need not move megabytes. S3 itself wants 5 MiB of every part but the last.
_PROGRAM: Final = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.s3 import models
assert models.S3_UPLOAD_PART_MIN_SIZE
models.S3_UPLOAD_PART_MIN_SIZE = 1
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class S3Server:
    """A running server; with `open_actions` all requests behind the first so many want credentials, which nobody has."""

    def __init__(self, open_actions: int | None = None) -> None:
        environ = dict(os.environ)
        if open_actions is not None:
            environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(open_actions)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
        )
        atexit.register(self.stop)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "moto's server did not start"
        self.port = int(line)
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        atexit.unregister(self.stop)


@functools.cache
def s3_server() -> S3Server:
    """Return the server that all tests share; each has a bucket of its own."""
    return S3Server()


@functools.cache
def _client(endpoint: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )


class BucketOfTest:
    """A new bucket; what is in it is seen and changed with a client of the test's own."""

    def __init__(self, server: S3Server) -> None:
        self.name = f"test-{uuid.uuid4().hex}"
        self.place = BucketPlace(self.name, PREFIX)
        self.endpoint = server.endpoint
        self.client = _client(server.endpoint)
        self.client.create_bucket(Bucket=self.name)

    def settings(self, data_dir: Path, **changes: Any) -> Settings:
        """Return settings that keep archives here."""
        values = {
            "cleaner_archive": self.place,
            "s3_endpoint": self.endpoint,
            "s3_access_key": KEY,
            "s3_secret_key": SECRET,
            "s3_timeout": 20,
            "s3_attempts": 2,
        }
        return make_settings(data_dir, **(values | changes))

    def environ(self) -> dict[str, str]:
        """Return the same as variables."""
        return {
            "COMPANION_CLEANER_ARCHIVE": str(self.place),
            "COMPANION_S3_ENDPOINT": self.endpoint,
            "COMPANION_S3_ACCESS_KEY": KEY,
            "COMPANION_S3_SECRET_KEY": SECRET,
        }

    def names(self) -> list[str]:
        """Return the objects, without the prefix."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return sorted(one["Key"].removeprefix(f"{PREFIX}/") for one in found)

    def uploads(self) -> list[str]:
        """Return the objects that are not complete."""
        found = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return sorted(one["Key"].removeprefix(f"{PREFIX}/") for one in found)

    def read(self, name: str) -> bytes:
        """Return an object."""
        return bytes(self.client.get_object(Bucket=self.name, Key=f"{PREFIX}/{name}")["Body"].read())

    def write(self, name: str, content: bytes) -> None:
        """Put an object in the place of one, or a new one."""
        self.client.put_object(Bucket=self.name, Key=f"{PREFIX}/{name}", Body=bytes(content))

    def remove(self, name: str) -> None:
        """Take an object away."""
        self.client.delete_object(Bucket=self.name, Key=f"{PREFIX}/{name}")


def new_bucket() -> BucketOfTest:
    """Return a new bucket on the shared server."""
    return BucketOfTest(s3_server())
