"""What an archive says of itself. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from companion.core.errors import Invalid

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """One archive: which documents of which collection, and how to know that the file is whole.

    `fence` is the token of the lease under which it was written: of two archives of one run the higher one counts. `size` is in
    bytes, `sha256` that of the file as it lies there, `content_sha256` that of the lines in it; times are Unix milliseconds.
    """

    policy: str
    run: str
    fence: int
    collection: str
    count: int
    first_id: str
    last_id: str
    size: int
    sha256: str
    content_sha256: str
    before: int
    written_at: int
    version: int = VERSION

    @property
    def name(self) -> str:
        """The name of the archive: that of its policy, of its run, and the fence."""
        return f"{self.policy}/{self.file}"

    @property
    def file(self) -> str:
        """What the names of its files begin with."""
        return file_of(self.run, self.fence)

    def text(self) -> bytes:
        """Return it as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def file_of(run: str, fence: int) -> str:
    """Return what the names of an archive's files begin with."""
    return f"{run}+{fence}"


def read_manifest(text: bytes, name: str) -> Manifest:
    """Read what `text` wrote. Raises `Invalid` for anything else, naming the archive."""
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as problem:
        raise Invalid("archive", name, f"a manifest that can be read ({problem})") from None
    if manifest.version > VERSION:
        raise Invalid("archive", name, f"one of version {VERSION}: this is of a newer release ({manifest.version})")
    return manifest
