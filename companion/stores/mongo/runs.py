"""Runs of jobs in MongoDB: the collection `mqtt_runs`, a document a run, with the fields of `companion.core.runs.Run`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from companion.core.errors import Fenced
from companion.core.runs import ENDED, Progress, Run, RunState, Trigger
from companion.stores.mongo.client import MongoClient

COLLECTION: Final = "mqtt_runs"
_PLAIN: Final = (
    "job",
    "requested_at",
    "due_at",
    "dry",
    "priority",
    "attempt",
    "cancelling",
    "holder",
    "fence",
    "started_at",
    "beat_at",
    "ended_at",
    "batches",
    "error",
)
_RUNNING: Final = RunState.RUNNING.value
_WAITING: Final = RunState.WAITING.value
_ENDED: Final = [state.value for state in ENDED]
_SECONDS: Final = 10.0


class MongoRuns:
    """The port `Runs`."""

    def __init__(self, client: MongoClient) -> None:
        self._client = client
        self._runs = client.database[COLLECTION]

    async def add(self, run: Run) -> bool:
        """Store a new one; False when there is one of this id."""
        try:
            await self._client.call(lambda: self._runs.insert_one(_document(run)))
        except DuplicateKeyError:
            return False
        return True

    async def get(self, run_id: str) -> Run | None:
        """Return the run; None when there is none."""
        found = await self._client.call(lambda: self._runs.find_one({"_id": run_id}))
        return None if found is None else _run(found)

    async def list(
        self, *, jobs: Collection[str] | None = None, states: Collection[RunState] | None = None, limit: int = 100
    ) -> Sequence[Run]:
        """Return up to `limit` of these jobs and states, those requested last first."""
        query: dict[str, Any] = {}
        if jobs is not None:
            query["job"] = {"$in": list(jobs)}
        if states is not None:
            query["state"] = {"$in": [state.value for state in states]}
        found = await self._client.call(
            lambda: self._runs.find(query).sort([("requested_at", -1), ("_id", -1)]).limit(limit).to_list(), _SECONDS
        )
        return [_run(one) for one in found]

    async def waiting(self, jobs: Collection[str], now: int, limit: int = 100) -> Sequence[Run]:
        """Return up to `limit` waiting ones that are due, in the order in which they should run."""
        query = {"state": _WAITING, "job": {"$in": list(jobs)}, "due_at": {"$lte": now}}
        order = [("priority", -1), ("due_at", 1), ("requested_at", 1)]
        found = await self._client.call(lambda: self._runs.find(query).sort(order).limit(limit).to_list(), _SECONDS)
        return [_run(one) for one in found]

    async def begin(self, run_id: str, holder: str, fence: int, now: int) -> Run | None:
        """Let a waiting or running one run under this fence; None when it has ended."""
        begun = await self._update(
            {"_id": run_id, "state": {"$in": [_WAITING, _RUNNING]}, "fence": {"$lte": fence}},
            [
                {
                    "$set": {
                        "state": _RUNNING,
                        "holder": {"$literal": holder},
                        "fence": fence,
                        "started_at": {"$ifNull": ["$started_at", now]},
                        "beat_at": now,
                    }
                }
            ],
        )
        if begun is not None:
            return _run(begun)
        run = await self.get(run_id)
        if run is None or run.ended:
            return None
        raise _fenced(run_id, fence)

    async def advance(self, run_id: str, fence: int, progress: Progress, batches: int, now: int) -> bool:
        """Note how far it has come; return whether it was asked to end."""
        fields = {**_progress_fields(progress), "batches": batches, "beat_at": now}
        changed = await self._update({"_id": run_id, "fence": fence, "state": _RUNNING}, {"$set": fields})
        if changed is None:
            raise _fenced(run_id, fence)
        return bool(changed["cancelling"])

    async def end(self, run_id: str, fence: int, state: RunState, error: str, now: int) -> None:
        """Note how it ended, or with WAITING that it goes on later."""
        fields = {"state": state.value, "error": error, "beat_at": now, "ended_at": now if state in ENDED else None}
        if await self._update({"_id": run_id, "fence": fence, "state": _RUNNING}, {"$set": fields}) is None:
            raise _fenced(run_id, fence)

    async def cancel(self, run_id: str, now: int) -> Run | None:
        """End a waiting one, and ask a running one to end."""
        over = {"state": RunState.CANCELLED.value, "ended_at": now, "cancelling": True}
        changed = await self._update({"_id": run_id, "state": _WAITING}, {"$set": over})
        if changed is None:
            changed = await self._update({"_id": run_id, "state": _RUNNING}, {"$set": {"cancelling": True}})
        return await self.get(run_id) if changed is None else _run(changed)

    async def prune(self, *, keep: int, before: int, limit: int, dry: bool = False) -> int:
        """Remove up to `limit` that ended before `before`, but of each job not its `keep` newest."""

        async def remove() -> int:
            removed = 0
            for job in await self._runs.distinct("job"):
                newest = self._runs.find({"job": job, "state": {"$in": _ENDED}}, {"ended_at": 1})
                old = await newest.sort([("requested_at", -1), ("_id", -1)]).skip(keep).to_list()
                ids = [one["_id"] for one in reversed(old) if one["ended_at"] < before][: limit - removed]
                if dry:
                    removed += len(ids)
                elif ids:
                    removed += (await self._runs.delete_many({"_id": {"$in": ids}})).deleted_count
            return removed

        return await self._client.call(remove, _SECONDS)

    async def _update(self, query: Mapping[str, Any], change: Any) -> dict[str, Any] | None:  # noqa: ANN401 - fields or a pipeline
        return await self._client.call(
            lambda: self._runs.find_one_and_update(query, change, return_document=ReturnDocument.AFTER)
        )


def _fenced(run_id: str, fence: int) -> Fenced:
    return Fenced(f"run {run_id}: it is not running under the fence {fence}")


def _progress_fields(progress: Progress) -> dict[str, Any]:
    return {
        "done": progress.done,
        "total": progress.total,
        "counts": dict(progress.counts),
        "position": progress.position,
    }


def _document(run: Run) -> dict[str, Any]:
    return {
        "_id": run.id,
        "trigger": run.trigger.value,
        "state": run.state.value,
        "parameters": dict(run.parameters),
        **{name: getattr(run, name) for name in _PLAIN},
        **_progress_fields(run.progress),
    }


def _run(found: Mapping[str, Any]) -> Run:
    return Run(
        id=found["_id"],
        trigger=Trigger(found["trigger"]),
        state=RunState(found["state"]),
        parameters=found["parameters"],
        progress=Progress(found["done"], found["total"], found["counts"], found["position"]),
        **{name: found[name] for name in _PLAIN},
    )
