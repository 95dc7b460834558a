"""Lives, for `tests.faults.killing`: `python -m tests.faults.lives`.

Each line of the input is a life: `{"kind": …, "settings": {…}, "killed_at": n}`. It is lived in a process of its own, which kills
itself (`SIGKILL`) at that step, at none of them for 0; the answer is its exit code and how many steps there were. A step is the
moment before or after one of the calls that `JOBS` and `SERVICES` name. The processes are forked, because what they import takes
longer than what they do.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final

from companion.settings import Settings
from companion.stores import production
from tests.faults.lives.jobs import JOBS, load_jobs_once
from tests.faults.lives.life import Counter, Life
from tests.faults.lives.services import SERVICES

LIVES: Final[Mapping[str, Life]] = {**JOBS, **SERVICES}


async def _no_indexes(_client: Any, _wanted: Any, idle: asyncio.Event) -> None:
    """Leave the indexes as they are: whoever prepared the life has made them."""
    idle.set()


async def live(kind: str, settings: Mapping[str, Any], killed_at: int) -> int:
    """Live; return how many steps there were."""
    life = LIVES[kind]
    counter = Counter(killed_at)
    for (owner, name), value in {**life.smaller, (production, "_keep_indexes"): _no_indexes}.items():
        setattr(owner, name, value)
    for owner, names in life.steps:
        for name in names:
            counter.around(owner, name)
    await life.live(Settings.model_validate(settings))
    return counter.steps


def main() -> None:
    """Answer line by line."""
    load_jobs_once()
    for line in sys.stdin:
        wanted = json.loads(line)
        for name in LIVES[wanted["kind"]].needs:
            importlib.import_module(name)
        # What is there before a life begins is no garbage of it: nor need it be looked through, nor its pages be copied for that.
        gc.freeze()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                os.dup2(2, 1)  # what is logged is no answer
                os.write(writing, str(asyncio.run(live(**wanted))).encode())
                code = 0
            except BaseException:  # noqa: BLE001 - told to whoever reads the log, as an exit code
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as told:
            steps = told.read()
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), int(steps or 0)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
