"""A MongoDB for tests where no mongod can be had: mongoeco's wire server, which also says that it is the primary of a replica set.

Started as `python server.py PORT FILE` by Python 3.13, where mongoeco is installed; it prints `up` when it serves. Data lie in FILE
(SQLite) and survive `kill -9`; so does the log of changes beside it, that change streams read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import struct
import sys
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import bson
from by_id import ById, remember_lists
from inserts import joined, parts_of, stops
from mongoeco.engines._sqlite_outbox import renew_consumer_lease
from mongoeco.wire import AsyncMongoEcoProxyServer
from mongoeco.wire.protocol import OP_MSG, encode_op_msg_response
from oplog import Oplog, spoil
from streams import Streams

REPLICA_SET: Final = "rs0"
_FIRST_SECTION: Final = 5
"""An OP_MSG begins with four bytes of flags and the kind of its first section, which is 0 for a command."""

_ENDS: Final = {"commitTransaction", "abortTransaction"}
_WRITES: Final = {"insert", "update", "delete", "findAndModify", "bulkWrite", "commitTransaction"}
_LONGEST_TRANSACTION: Final = 10.0
_MOST_COUNTED: Final = 10_000_000
"""The engine refuses to count more documents than it is told to; MongoDB counts any number."""

_CONFLICT_SECONDS: Final = 0.005
_CONFLICT: Final[dict[str, Any]] = {
    "ok": 0.0,
    "code": 112,
    "codeName": "WriteConflict",
    "errmsg": "another transaction is running",
    "errorLabels": ["TransientTransactionError"],
}

_NO_TRANSACTION: Final[dict[str, Any]] = {
    "ok": 0.0,
    "code": 251,
    "codeName": "NoSuchTransaction",
    "errmsg": "this transaction has not begun, or is over",
    "errorLabels": ["TransientTransactionError"],
}


_LEASE_SECONDS: Final = 10.0
_UNDISTURBED: Final = SimpleNamespace(raise_if_failed=lambda: None)


def _session(command: dict[str, Any]) -> bytes:
    return bytes(command["lsid"]["id"]) if "lsid" in command else b""


def _may_have_written(command: dict[str, Any]) -> bool:
    """Tell whether something is changed now; inside of a transaction nothing is, and the engine lets nobody look."""
    return bool(_WRITES & command.keys()) and ("autocommit" not in command or bool(_ENDS & command.keys()))


class Engine(ById):  # type: ignore[misc] # as below
    """Does for every document only what has to be done.

    mongoeco reads the whole collection for each one that is inserted, because its `_id` may have been stored under another key;
    ObjectIds and texts have one key each, which it looks up before. And it takes a lease, starts a thread, and commits four times
    to tell of one change, because others might have the same file; here nobody else has. Thousands of documents took minutes.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._terms: dict[str, tuple[int, float]] = {}
        self._dispatching = threading.RLock()

    def dispatch_committed_changes(self, consumer_id: str, consumer: Any) -> None:
        """Tell of what was committed, under a lease that is taken now and then."""
        with self._dispatching:
            generation, taken_at = self._terms.get(consumer_id, (0, float("-inf")))
            if time.monotonic() - taken_at > _LEASE_SECONDS:
                generation = self._lease_of(consumer_id, generation)
                self._terms[consumer_id] = generation, time.monotonic()
            try:
                self._dispatch_committed_changes_serial(
                    consumer_id, consumer, generation=generation, heartbeat=_UNDISTURBED
                )
            except Exception as problem:  # noqa: BLE001 - a change that is not told is one that tests wait for in vain
                sys.stderr.write(f"told the long way: {type(problem).__name__}: {problem}\n")
                del self._terms[consumer_id]
                self._release_change_dispatch_lease(consumer_id, generation)
                super().dispatch_committed_changes(consumer_id, consumer)

    def _lease_of(self, consumer_id: str, generation: int) -> int:
        term = (self._change_dispatch_owner, generation)
        with self._change_delivery_storage() as connection:
            kept = bool(generation) and renew_consumer_lease(
                connection, consumer_id, term, now_epoch=time.time(), ttl_seconds=3 * _LEASE_SECONDS
            )
            connection.commit()
        return generation if kept else int(self._acquire_change_dispatch_lease(consumer_id))

    def _validate_document_against_unique_indexes(
        self, db: str, collection: str, document: dict[str, Any], **options: Any
    ) -> None:
        if isinstance(document.get("_id"), bson.ObjectId | str):
            options["scan_payload_id"] = False
        super()._validate_document_against_unique_indexes(db, collection, document, **options)


class Server(AsyncMongoEcoProxyServer):  # type: ignore[misc] # mongoeco is not there where types are checked
    """Answers what mongoeco's server does not: who is the primary, and which version of MongoDB this is."""

    def __init__(self, log: Oplog, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._log = log
        self._streams = Streams(log)
        self._answers = itertools.count(1)
        self._engine = asyncio.Lock()
        self._free = asyncio.Event()
        self._free.set()
        self._owner: bytes | None = None
        self._transactions = 0
        self._handler: asyncio.Task[Any] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._swallows = False

    async def _dispatch_wire_request(self, header: Any, payload: bytes, *, connection: Any) -> Any:
        command: dict[str, Any] = {}
        if header.op_code == OP_MSG and payload[_FIRST_SECTION - 1] == 0:
            (size,) = struct.unpack_from("<i", payload, _FIRST_SECTION)
            command = bson.decode(payload[_FIRST_SECTION : _FIRST_SECTION + size])
            answer = self._own_answer(command) or await self._streams.answer(command)
            if answer is not None:
                message = encode_op_msg_response(
                    self._time() | answer, request_id=next(self._answers), response_to=header.request_id
                )
                return spoil(message)
        mine = self._owner is not None and self._owner == _session(command)
        if command.get("startTransaction"):
            if self._owner is not None:
                # The engine bears nothing beside a transaction; MongoDB tells those who get in each other's way to try again.
                await asyncio.sleep(_CONFLICT_SECONDS)
                return encode_op_msg_response(_CONFLICT, request_id=next(self._answers), response_to=header.request_id)
            self._begin_transaction(_session(command))
        elif not mine:
            if _ENDS & command.keys():
                # Such as the end of one that was told of a conflict: it must not wait for the others.
                return encode_op_msg_response(
                    _NO_TRANSACTION, request_id=next(self._answers), response_to=header.request_id
                )
            # Of those who wait, one may have begun the next transaction before we are woken.
            while not self._free.is_set():
                await asyncio.wait_for(self._free.wait(), _LONGEST_TRANSACTION)
        if mine or command.get("startTransaction"):
            self._handler = asyncio.current_task()
        try:
            return await self._in_parts(header, command, payload, connection)
        finally:
            if mine and _ENDS & command.keys():
                # A commit that has failed leaves the engine in the transaction; its client only tries that one again.
                self._undo()
                self._end_transaction()

    async def _in_parts(self, header: Any, command: dict[str, Any], payload: bytes, connection: Any) -> Any:
        parts = parts_of(command, payload)
        if len(parts) == 1:
            return spoil(await self._in_engine(header, command, payload, connection))
        answers: list[tuple[int, bytes]] = []
        for start, part in parts:
            answers.append((start, await self._in_engine(header, command, part, connection)))
            if stops(command, answers[-1][1]):
                break
        return encode_op_msg_response(joined(answers), request_id=next(self._answers), response_to=header.request_id)

    async def _in_engine(self, header: Any, command: dict[str, Any], payload: bytes, connection: Any) -> Any:
        # One command at a time: side by side, the engine's own locks can wait for each other.
        async with self._engine:
            try:
                return await super()._dispatch_wire_request(header, payload, connection=connection)
            finally:
                # Before the answer is sent: what was acknowledged is in the log.
                await self._record(command)

    async def start(self) -> Any:
        """Serve, after the log has caught up with what a killed process did."""
        async with self._engine:
            address = await super().start()
            self._news = self._client.watch(full_document="updateLookup", max_await_time_ms=0)
            await self._catch_up()
        return address

    async def _record(self, command: dict[str, Any]) -> None:
        """Write down what the engine says it has changed, and what it does not say."""
        while (event := await self._news.try_next()) is not None:
            if event["operationType"] == "invalidate":
                # The engine's word for a dropped collection. It ends the engine's stream; our clients' end by their own scope.
                self._log.write("drop", event["ns"]["db"], event["ns"].get("coll", ""), None, None)
                self._news = self._client.watch(full_document="updateLookup", max_await_time_ms=0)
                # The engine gives this event a number that it gives again to the next change, which it then keeps to itself.
                self._swallows = True
                break
            self._swallows = False
            ns = event["ns"]
            self._log.write(
                event["operationType"],
                ns["db"],
                ns.get("coll", ""),
                event.get("documentKey"),
                event.get("fullDocument"),
            )
        if self._swallows and _may_have_written(command):
            # What was written is in the collection that the command names; a transaction may have written anywhere.
            name = next(iter(command))
            await self._catch_up(None if name in _ENDS else (command["$db"], command[name]))

    async def _catch_up(self, only: tuple[str, str] | None = None) -> None:
        for db in await self._client.list_database_names():
            if only is not None and db != only[0]:
                continue
            for collection in await self._client[db].list_collection_names():
                if only is not None and collection != only[1]:
                    continue
                async for document in self._client[db][collection].find({}):
                    key = {"_id": document["_id"]}
                    before = self._log.current(db, collection, key)
                    if before != document:
                        self._log.write("insert" if before is None else "update", db, collection, key, document)
        for db, collection, key in list(self._log.seen()):
            if only is not None and (db, collection) != only:
                continue
            if await self._client[db][collection].find_one(key) is None:
                self._log.write("delete", db, collection, key, None)

    def _begin_transaction(self, owner: bytes) -> None:
        self._owner = owner
        self._transactions += 1
        self._free.clear()
        asyncio.get_running_loop().call_later(_LONGEST_TRANSACTION, self._forget_transaction, self._transactions)

    def _end_transaction(self) -> None:
        self._owner = None
        self._free.set()

    def _connection_done(self, handler: asyncio.Task[None]) -> None:
        """End what a client left behind when it died, rather than let everybody wait for the longest time."""
        super()._connection_done(handler)
        if not handler.cancelled() and (problem := handler.exception()) is not None:
            # Its client is told no more than that the connection is closed.
            sys.stderr.write("".join(traceback.format_exception(problem)))
        if handler is self._handler:
            self._forget_transaction(self._transactions)

    def _forget_transaction(self, number: int) -> None:
        """End a transaction that nobody will end; its client's next one has another number."""
        if self._owner is not None and self._transactions == number:
            self._ending = asyncio.create_task(self._abort(number))

    async def _abort(self, number: int) -> None:
        async with self._engine:
            if self._owner is not None and self._transactions == number:
                self._undo()
                self._end_transaction()

    def _undo(self) -> None:
        """Undo what is neither committed nor aborted; there is never more than one."""
        for one in self._executor._session_store._sessions.values():
            if one.session.transaction_active:
                try:
                    one.session.abort_transaction()
                except Exception:  # noqa: BLE001 - whatever it is, others must not wait for ever
                    sys.stderr.write(f"a transaction cannot be undone:\n{traceback.format_exc()}")

    def _own_answer(self, command: dict[str, Any]) -> dict[str, Any] | None:
        name = next(iter(command)).lower()
        if name in {"hello", "ismaster"}:
            return self._hello()
        if name == "ping":
            return {"ok": 1.0}
        if name == "buildinfo":
            return {"version": "7.0.0", "versionArray": [7, 0, 0, 0], "ok": 1.0}
        return None

    def _hello(self) -> dict[str, Any]:
        me = f"{self._host}:{self.address.port}"
        return {
            "helloOk": True,
            "isWritablePrimary": True,
            "ismaster": True,
            "secondary": False,
            "setName": REPLICA_SET,
            "setVersion": 1,
            "hosts": [me],
            "primary": me,
            "me": me,
            "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": 1,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "readOnly": False,
            "ok": 1.0,
        }

    def _time(self) -> dict[str, Any]:
        """Say how late it is: not before the newest change."""
        now = bson.Timestamp(*self._log.last)
        return {
            "operationTime": now,
            "$clusterTime": {"clusterTime": now, "signature": {"hash": b"\0" * 20, "keyId": bson.Int64(0)}},
        }


def forget_the_dead(file: str) -> None:
    """Let the engine keep no changes for those who were told of them in an earlier life.

    It keeps ten thousand for an hour, and counts them at every change. We find by ourselves what a killed process did not tell.
    """
    with contextlib.closing(sqlite3.connect(file)) as connection, contextlib.suppress(sqlite3.OperationalError):
        connection.execute("DELETE FROM change_outbox_consumers")
        connection.commit()


async def main(port: int, file: str) -> None:
    """Serve until killed."""
    forget_the_dead(file)
    remember_lists()
    log = Oplog(Path(f"{file}.oplog"))
    server = Server(
        log, engine=Engine(file, aggregation_materialization_limit=_MOST_COUNTED), host="127.0.0.1", port=port
    )
    await server.start()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
