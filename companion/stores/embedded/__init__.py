"""The embedded profile: SQLite in a data folder, for one machine."""

from companion.stores.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore"]
