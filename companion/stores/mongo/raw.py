"""Documents taken as bytes, each decoded alone: one that is no sound BSON does not spoil those beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import bson
from bson import CodecOptions
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

RAW: Final = CodecOptions[RawBSONDocument](document_class=RawBSONDocument)
UNSOUND: Final = (BSONError, ValueError, OverflowError, RecursionError)
"""What `decode` raises."""

_CODEC: Final = CodecOptions[dict[str, Any]](tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO)
_LENIENT: Final = _CODEC.with_options(unicode_decode_error_handler="replace")


def decode(raw: RawBSONDocument) -> dict[str, Any]:
    """Decode a document. Raises one of `UNSOUND` for bytes that are none."""
    return decode_bytes(raw.raw)


def decode_bytes(data: bytes | memoryview) -> dict[str, Any]:
    """Decode the bytes of a document, likewise."""
    return bson.decode(data, _CODEC)


def decode_as_far_as_possible(raw: RawBSONDocument) -> Mapping[str, Any]:
    """Decode a document with marks where text is no UTF-8; empty when even that is impossible."""
    try:
        return bson.decode(raw.raw, _LENIENT)
    except UNSOUND:
        return {}
