"""`companion serve --workers N` with real processes: killed, frozen, orphaned, told to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.waiting import wait_until
from tests.support.workers import DECISIONS, gone, serving, spawn


async def test_two_workers_answer_and_count_together(tmp_path: Path) -> None:
    """Connections reach both processes, and a scrape shows what both counted, within seconds and with nothing counted twice."""
    async with serving(tmp_path) as service:
        # The second time each shares again what it has shared before.
        for asked in (64, 128):
            await asyncio.gather(*(service.ask() for _ in range(64)))

            async def counted(asked: int = asked) -> bool:
                found = [await service.total(name) for name in (DECISIONS, "companion_hook_seconds_count")]
                assert max(found) <= asked, found
                return found == [asked, asked]

            await eventually(counted, 60, f"{asked} are counted")
        # Each worker shares what it counted in a file of its own.
        files = sorted((tmp_path / "tmp").glob("companion-*/counter_*.db"))
        assert [file.name for file in files] == ["counter_1.db", "counter_2.db"]
        assert await service.total("companion_workers") == 2


async def test_each_worker_answers(tmp_path: Path) -> None:
    """With one worker frozen the other answers its share of the connections; continued, it answers those that waited for it."""
    async with serving(tmp_path) as service:
        first, second = service.workers()
        for frozen in (first, second):
            os.kill(frozen, signal.SIGSTOP)
            asked = [asyncio.create_task(service.ask()) for _ in range(48)]
            done, waiting = await asyncio.wait(asked, timeout=2)
            assert done
            assert waiting
            os.kill(frozen, signal.SIGCONT)
            async with asyncio.timeout(20):
                await asyncio.gather(*asked)


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """After kill -9 the other worker answers, a new one starts, and no count goes back."""
    async with serving(tmp_path) as service:
        await asyncio.gather(*(service.ask() for _ in range(32)))

        async def counted() -> bool:
            return await service.total(DECISIONS) == 32

        await eventually(counted, what="all is counted")
        victim, other = service.workers()
        os.kill(victim, signal.SIGKILL)
        # Not before its parent has buried it are its sockets closed: a thread may outlive the first one for a moment.
        await wait_until(lambda: victim not in service.workers(), what="it is dead")
        for _ in range(20):
            await service.ask()
        await eventually(service.all_ready, 20, what="both are ready again")
        assert await service.total("companion_worker_restarts_total") == 1
        now = service.workers()
        assert len(now) == 2
        assert other in now
        assert victim not in now

        async def counted_on() -> bool:
            total = await service.total(DECISIONS)
            assert total >= 32
            return total == 52

        await eventually(counted_on, what="what came since is counted on top")


async def test_a_frozen_worker_is_named(tmp_path: Path) -> None:
    """/readyz names a worker that is silent and stays 200 while another one decides; with both silent it is 503."""
    async with serving(tmp_path) as service:
        first, second = service.workers()

        async def silent(count: int) -> tuple[int, dict[str, Any]] | None:
            # The roles are asked before the workers: one that falls silent in between is in the next answer.
            status, body = await service.readiness()
            found = [problem for problem in body["workers"].values() if problem.startswith("silent for")]
            return (status, body) if len(found) == count and (count == 1 or status != 200) else None

        os.kill(first, signal.SIGSTOP)
        status, body = await eventually(lambda: silent(1), 15, what="the first is missed")
        assert (status, body["roles"]["hooks"]) == (200, "ready")
        assert await service.total("companion_workers") == 2
        os.kill(second, signal.SIGSTOP)
        status, body = await eventually(lambda: silent(2), 15, what="the second is missed")
        assert status == 503
        assert "worker 1: silent" in body["roles"]["hooks"]
        for worker in (first, second):
            os.kill(worker, signal.SIGCONT)
        await eventually(service.all_ready, what="both are back")


async def test_sigterm_ends_all(tmp_path: Path) -> None:
    """SIGTERM ends the workers and the parent, which exits with 0 and leaves no file behind."""
    async with serving(tmp_path, "all") as service:
        _, body = await service.readiness()
        assert set(body["roles"]) == {"maintenance", "publisher", "hooks"}
        workers = service.workers()
        service.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            _, errors = await service.process.communicate()
        assert service.process.returncode == 0
        assert json.loads(errors.splitlines()[-1])["event"] == "stopped"
        assert b"worker ended" not in errors
        assert all(gone(worker) for worker in workers)
        assert list((tmp_path / "tmp").iterdir()) == []


async def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    """After kill -9 of the parent the workers end by themselves, the port is free, and their files are removed."""
    async with serving(tmp_path) as service:
        workers = service.workers()
        service.process.kill()
        await wait_until(lambda: all(gone(worker) for worker in workers), 20, what="the workers end")
        with socket.create_server(("127.0.0.1", service.hooks_port)):
            pass
        assert list((tmp_path / "tmp").iterdir()) == []


async def refused(folder: Path, *options: str, hooks_port: int = 0) -> tuple[int | None, list[str]]:
    """Return the exit code of a start that must fail, and its lines."""
    process = await spawn(folder, *options, hooks_port=hooks_port)
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    return process.returncode, errors.decode().splitlines()


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """A port of somebody else, also of another service of ours with workers, stops the start with one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = await refused(tmp_path / "a", "--role", "hooks", "--workers", "2", hooks_port=port)
        assert code == 1
        assert len(lines) == 1
        assert f"hooks_port: '127.0.0.1:{port}' is not allowed" in lines[0]
    async with serving(tmp_path / "b") as service:
        code, lines = await refused(tmp_path / "a", "--role", "hooks", "--workers", "2", hooks_port=service.hooks_port)
        assert code == 1
        assert [line for line in lines if "hooks_port" in line] == lines
        assert len(lines) == 1


@pytest.mark.parametrize("role", ["publisher", "maintenance"])
async def test_workers_without_hooks(tmp_path: Path, role: str) -> None:
    """Several workers with a role that has no hooks are wrong usage."""
    code, (line,) = await refused(tmp_path, "--role", role, "--workers", "2")
    assert code == 2
    assert f"1 with the role {role}" in line
