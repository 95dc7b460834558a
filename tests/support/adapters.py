"""The adapters of the store's ports; every contract suite runs on each of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from companion.core.ports import Store
from companion.stores.embedded import EmbeddedStore

Open = Callable[[], AbstractAsyncContextManager[Store]]
"""Opens a store; every call opens one more on the same data."""


def _embedded(folder: Path) -> Open:
    return functools.partial(EmbeddedStore.open, folder / "data")


ADAPTERS: Final[Mapping[str, Callable[[Path], Open]]] = {"embedded": _embedded}
"""By name: what makes data, empty at first, that belongs to one test and may use this folder."""
