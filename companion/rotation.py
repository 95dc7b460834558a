"""Keys of callers that change while the service runs: read again from where the settings come from, in force all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from companion.core.errors import Invalid
from companion.keys import Keyring, hook_keys, ops_keys
from companion.reloading import Commit
from companion.settings import Settings
from companion.settings.kinds import KEY_ALLOWED, is_key

log = structlog.get_logger("companion.rotation")

KEYS: Final = "keys"
"""The part of the configuration that is read again here."""

UseKeys = Callable[[Sequence[str]], None]
"""Lets these be the valid hook keys from now on; it cannot fail."""


class KeyRotation:
    """The keys of the operations port, and of the hooks where somebody asked for them.

    `reread` returns the settings as they are now; it raises `Invalid` when they cannot be used. Only the keys are taken of them.
    """

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        self._settings = settings
        self._reread = reread
        self._ops_keys = tuple(ops_keys(settings))
        self._hook_keys: tuple[str, ...] = ()
        self._use_hook_keys: UseKeys | None = None
        self.ops = Keyring(self._ops_keys)
        """The one keyring of all that the operations port serves."""

    def hooks(self) -> Sequence[str]:
        """Return the hook keys that are valid now."""
        if not self._hook_keys:
            self._hook_keys = tuple(hook_keys(self._settings))
        return self._hook_keys

    def tell_hooks(self, use: UseKeys) -> None:
        """Hand new hook keys to the hooks."""
        self._use_hook_keys = use

    async def prepare(self) -> Commit:
        """Read the keys and return what puts them into force. Raises `Invalid`, and nothing changes."""
        ops, hooks = await asyncio.to_thread(self._read)

        def commit() -> None:
            if ops != self._ops_keys:
                self._ops_keys = ops
                self.ops.use(ops)
                log.info("keys changed", port="ops", keys=len(ops))
            if self._use_hook_keys is not None and hooks != self._hook_keys:
                self._hook_keys = hooks
                self._use_hook_keys(hooks)
                log.info("keys changed", port="hooks", keys=len(hooks))

        return commit

    def _read(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        fresh = self._reread()
        # The folder of made keys is the one that this process began with.
        current = self._settings.model_copy(update={"hooks_keys": fresh.hooks_keys, "ops_keys": fresh.ops_keys})
        ops = tuple(ops_keys(current))
        hooks = tuple(hook_keys(current)) if self._use_hook_keys is not None else ()
        for keys, present, name in ((ops, self._ops_keys, "ops.key"), (hooks, self._hook_keys, "hook.key")):
            # Configured ones have been checked; a file that was put there is only at its owner's risk until it changes.
            if keys != present and not all(map(is_key, keys)):
                raise Invalid("data_dir", str(self._settings.data_dir / name), f"a file of one key that {KEY_ALLOWED}")
        return ops, hooks
