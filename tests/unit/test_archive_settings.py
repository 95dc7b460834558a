"""Where archives are kept: what is understood and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from companion.core.errors import Invalid
from companion.loading import load
from companion.settings.archives import BucketPlace
from maintenance.archive.folder import Folder
from maintenance.archive.s3 import Storage
from maintenance.archive.target import target_of
from tests.support.service import make_settings

KEYS = {"COMPANION_S3_ACCESS_KEY": "a", "COMPANION_S3_SECRET_KEY": "b"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/var/archive", Path("/var/archive")),
        ("archive", Path("archive")),
        ("s3://old", BucketPlace("old")),
        ("s3://old/", BucketPlace("old")),
        ("s3://old.things-1/a/b.c/", BucketPlace("old.things-1", "a/b.c")),
    ],
)
def test_places(text: str, place: Path | BucketPlace) -> None:
    """A folder, or a bucket with a prefix; shown as they are written."""
    found = load({"COMPANION_CLEANER_ARCHIVE": text}).settings.cleaner_archive
    assert found == place
    assert str(found) == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3://a",
        "s3:///x",
        "s3://UPPER",
        "s3://under_score",
        "s3://-old",
        "s3://old..things",
        "s3://old/a//b",
        "s3://old/a b",
        "s3://old/a?b",
        "s3://old/\n",
        "s3://old/ä",
        "s3://old/" + "x" * 513,
        "gs://old",
        "S3://old",
        "https://old",
    ],
)
def test_places_that_are_none(text: str) -> None:
    """They are refused in one line that says what is allowed."""
    with pytest.raises(Invalid, match=r"cleaner_archive: .*s3://bucket/prefix"):
        load({"COMPANION_CLEANER_ARCHIVE": text})


@pytest.mark.parametrize(
    ("environ", "field"),
    [
        ({"COMPANION_S3_ENDPOINT": "storage:9000"}, "s3_endpoint"),
        ({"COMPANION_S3_ENDPOINT": "https://me:secret@storage"}, "s3_endpoint"),
        ({"COMPANION_S3_ENDPOINT": "https://storage/bucket"}, "s3_endpoint"),
        ({"COMPANION_S3_REGION": "eu central"}, "s3_region"),
        ({"COMPANION_S3_ADDRESSING": "both"}, "s3_addressing"),
        ({"COMPANION_S3_TIMEOUT": "0"}, "s3_timeout"),
        ({"COMPANION_S3_ATTEMPTS": "0"}, "s3_attempts"),
        ({"COMPANION_S3_ENCRYPTION": "rot13"}, "s3_encryption"),
        ({"COMPANION_S3_VERIFY": "false", "COMPANION_S3_CA_FILE": "/ca.pem"}, "s3_ca_file"),
        ({"COMPANION_CLEANER_ARCHIVE": "s3://old", "COMPANION_S3_ACCESS_KEY": "a"}, "s3_secret_key"),
        ({"COMPANION_CLEANER_ARCHIVE": "s3://old", "COMPANION_S3_SECRET_KEY": "b"}, "s3_access_key"),
    ],
)
def test_what_is_refused(environ: dict[str, str], field: str) -> None:
    """The setting that is wrong is named."""
    with pytest.raises(Invalid) as problem:
        load(environ)
    assert problem.value.field == field


def test_which_target(tmp_path: Path) -> None:
    """The place says what stands behind it; without one it is a folder beside the data."""
    assert isinstance(target_of(make_settings(tmp_path)), Folder)
    settings = load({"COMPANION_CLEANER_ARCHIVE": "s3://old", **KEYS}).settings
    assert isinstance(target_of(settings), Storage)
    assert isinstance(target_of(settings, tmp_path), Folder)
