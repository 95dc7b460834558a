"""Change streams of a MongoDB of the test's own, read as the pipeline reads them; the stand-in fails when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from companion.core.errors import Transient
from companion.core.model import Change
from companion.core.ports import Item
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.client import MongoConfig, open_mongo
from companion.stores.mongo.source import MongoSource
from companion.stores.mongo.watching import scope_of
from tests.support.mongo import MongoServer, mongo_server

PATIENCE = 20.0
FAULT = "companionFault"


INVALID_TEXT = "\x7fNOT UTF-8\x7f"
"""The stand-in sends it as bytes that are no text."""


WATCH = ("thing.*", "domain.clients")
Documents = Any


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[MongoServer]:
    async with mongo_server(tmp_path) as running:
        yield running


@pytest.fixture
async def db(server: MongoServer) -> AsyncIterator[Documents]:
    """Open the databases, as anybody may write to them."""
    async with AsyncMongoClient[dict[str, Any]](server.url) as client:
        yield client


class Reader:
    """A source that is read as the pipeline reads it."""

    def __init__(self, source: MongoSource) -> None:
        self.source = source
        self.items: list[Item] = []

    @property
    def changes(self) -> list[Change]:
        return [item.change for item in self.items if item.change is not None]

    async def read(self, count: int, limit: int = 64) -> list[Change]:
        """Read until so many changes came, patiently."""
        async with asyncio.timeout(PATIENCE):
            while len(self.changes) < count:
                try:
                    self.items += await self.source.read(limit)
                except Transient:
                    await asyncio.sleep(0.05)
        return self.changes

    async def until_quiet(self) -> list[Change]:
        """Read until nothing comes and no place is looked for."""
        quiet = 0
        async with asyncio.timeout(PATIENCE):
            while quiet < 2:
                try:
                    items = await self.source.read(64)
                except Transient:
                    continue
                self.items += items
                quiet = 0 if items or self.source._place.catch is not None else quiet + 1
        return self.changes


class Opener:
    """Opens sources over clients that are closed with the test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stack: list[Any] = []

    async def __call__(
        self,
        fence: int = 1,
        watch: Sequence[str] = WATCH,
        batch: int = 500,
        url: str = "",
        timeout: float = 1.0,  # noqa: ASYNC109 - the setting
    ) -> Reader:
        opened = open_mongo(MongoConfig(url or self.url, "companion", timeout))
        client = await opened.__aenter__()
        source = MongoSource(client, MongoCheckpoints(client), scope_of(watch, "companion"), batch)
        self.stack.append((source, opened))
        await source.open(fence)
        return Reader(source)


@pytest.fixture
async def reader(server: MongoServer) -> AsyncIterator[Opener]:
    opener = Opener(server.url)
    yield opener
    for source, opened in opener.stack:
        await source.close()
        await opened.__aexit__(None, None, None)


async def order(db: Documents, kind: str, **options: object) -> None:
    await db.admin.command({FAULT: kind, **options})
