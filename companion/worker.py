"""One worker process of the hooks: `python -m companion.worker FD`, started by `companion.supervising` only.

The number is the descriptor of its end of the socket on which its task comes and its reports go.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import shutil
import signal
import socket
import sys
from dataclasses import dataclass

import msgspec
import structlog

from broker_hooks.service import Hooks, running_hooks
from companion.background import background, run
from companion.core.errors import CompanionError
from companion.logs import configure_logs, told
from companion.metrics import Metrics
from companion.sharing import Sheet
from companion.stores.opening import open_store
from companion.supervising import REPORT_SECONDS, Report, Task

log = structlog.get_logger("companion.worker")

_TROUBLE_SECONDS = 2.5


@dataclass(slots=True)
class _Worker:
    """The worker at work; `hooks` are None until it serves."""

    task: Task
    writer: asyncio.StreamWriter
    metrics: Metrics
    sheet: Sheet
    hooks: Hooks | None = None

    async def report(self) -> None:
        """Tell how it goes and share the metrics, again and again."""
        while True:
            self.tell(self._report(await self._problem()))
            await self.writer.drain()
            self.sheet.copy(self.metrics.registry)
            await asyncio.sleep(REPORT_SECONDS)

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve the hooks until told to stop, then finish what is in flight."""
        settings = self.task.settings
        async with (
            open_store(settings) as store,
            running_hooks(
                settings,
                store,
                self.metrics,
                self.task.keys,
                reuse_port=True,
                book=self.task.book,
                certificate=self.task.certificate,
            ) as hooks,
        ):
            self.hooks = hooks
            self.take(self.task)
            log.info("worker started")
            await stop.wait()

    def take(self, task: Task) -> None:
        """Go by this task from now on, as far as that can be changed without a new start."""
        self.task = task
        if self.hooks is not None:
            self.hooks.use_keys(task.keys)
            if self.hooks.tls is not None and task.certificate is not None:
                self.hooks.tls.use(task.certificate)
            if self.hooks.directory.book != task.book:
                self.hooks.directory.use(task.book)
            self.tell(self._report(None))

    def _report(self, problem: str | None) -> Report:
        serving = self.hooks is not None
        return Report(serving=serving, problem=problem, task=self.task.number if serving else 0)

    def tell(self, report: Report) -> None:
        """Send a report."""
        self.writer.write(msgspec.json.encode(report) + b"\n")

    async def _problem(self) -> str | None:
        if self.hooks is None:
            return None
        try:
            async with asyncio.timeout(_TROUBLE_SECONDS):
                return await self.hooks.trouble()
        except TimeoutError:
            return f"the stores did not answer within {_TROUBLE_SECONDS:g} s"


async def _work(channel: socket.socket) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    task = await _next_task(reader)
    configure_logs(task.settings.log_format, task.settings.log_level)
    structlog.contextvars.bind_contextvars(worker=task.slot)
    orphaned = False

    async def watch() -> None:
        nonlocal orphaned
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                worker.take(await _next_task(reader))
        orphaned = True
        stop.set()

    metrics = Metrics()
    worker = _Worker(task, writer, metrics, Sheet(task.folder, task.slot))
    try:
        async with background(worker.report(), watch()):
            await worker.serve(stop)
    except (CompanionError, OSError) as problem:
        worker.tell(Report(serving=False, failure=str(problem)))
        return 1
    except Exception as problem:  # noqa: BLE001 - the parent says so in a line and starts another
        worker.tell(Report(serving=False, failure=told(problem)))
        return 1
    finally:
        if orphaned:
            # Whoever made the folder was killed and removes nothing any more.
            shutil.rmtree(task.folder, ignore_errors=True)
        else:
            worker.sheet.copy(metrics.registry)
        worker.sheet.close()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return 0


async def _next_task(reader: asyncio.StreamReader) -> Task:
    """Return the next task. Raises `IncompleteReadError` when the parent is gone."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    task: Task = pickle.loads(await reader.readexactly(size))  # noqa: S301 - from our parent, over a private socket
    return task


def main() -> None:
    """Work until SIGTERM or the end of the parent."""
    # Ctrl-C reaches every process at the terminal; the parent ends us in its order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # So does SIGHUP when the terminal goes; the parent reads the configuration again, and tells us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(run(_work(socket.socket(fileno=int(sys.argv[1])))))


if __name__ == "__main__":
    main()
