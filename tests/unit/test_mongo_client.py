"""The connection to MongoDB outlives whatever befalls the calls on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from companion.stores.mongo.audits import MongoAudits
from companion.stores.mongo.client import MongoClient, MongoConfig, open_mongo
from tests.support.eventually import eventually
from tests.support.mongo import mongo_server

CALLS = 40
TIMEOUT = 1.0


async def look_up(client: MongoClient, number: int) -> None:
    """Do as the hooks do, and be given up at some moment."""

    async def find() -> object:
        return await client.database.things.find_one({"_id": number})

    await asyncio.sleep(number * 0.005)
    # Around the breaker, which would spare the driver most of it.
    await client._guarded(find, TIMEOUT)


async def test_found_back_after_calls_that_were_given_up(tmp_path: Path) -> None:
    """Many calls are given up while the driver waits for a server that was killed; when it is back, so are we.

    They are many because each would break the driver's lock only if it were cancelled at the moment when the driver stops waiting.
    """
    async with mongo_server(tmp_path) as server:
        url = f"{server.url}&directConnection=true".replace("replicaSet=rs0&", "")
        async with open_mongo(MongoConfig(url, "companion", TIMEOUT)) as client:
            await asyncio.gather(*(look_up(client, number) for number in range(CALLS)))
            server.kill()
            for _ in range(4):
                given_up = await asyncio.gather(
                    *(look_up(client, number) for number in range(CALLS)), return_exceptions=True
                )
                assert all(given_up)
            await asyncio.to_thread(server.start)

            async def back() -> bool:
                return await client.trouble() is None

            await eventually(back, 15, "MongoDB is found back")


async def test_a_call_that_nobody_waits_for_ends_by_itself(tmp_path: Path) -> None:
    """Whoever asked may be cancelled; what was begun is finished, and the client closes without haste."""
    async with mongo_server(tmp_path) as server, open_mongo(MongoConfig(server.url, "companion", TIMEOUT)) as client:
        insert = asyncio.ensure_future(client.call(lambda: client.database.things.insert_one({"_id": 1})))
        await asyncio.sleep(0)
        insert.cancel()
        await asyncio.wait({insert})
        assert insert.cancelled()
        await client.end()
        assert await client.database.things.find_one({"_id": 1}) == {"_id": 1}


async def test_what_was_written_twice_is_stored_once(tmp_path: Path) -> None:
    """The driver repeats a write that it got no answer to: what is there already is no error, and the rest is stored."""
    records = [{"_id": number, "at": number} for number in range(5)]
    async with mongo_server(tmp_path) as server, open_mongo(MongoConfig(server.url, "companion", TIMEOUT)) as client:
        audits = MongoAudits(client)
        await audits._insert(records[1:3])
        await audits._insert(records)
        assert await client.database.mqtt_audits.count_documents({}) == len(records)
