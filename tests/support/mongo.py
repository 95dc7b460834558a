"""A MongoDB for the tests: the one that COMPANION_TEST_MONGO_URL names, or the stand-in where a Python 3.13 is found.

Where there is neither, what needs it is skipped, and the end of the run says so.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from companion.stores.mongo import MongoClient, MongoConfig, indexes, open_mongo
from companion.stores.mongo.accounts import MongoAccounts
from companion.stores.mongo.audits import MongoAudits
from companion.stores.mongo.checkpoints import MongoCheckpoints
from companion.stores.mongo.documents import MongoDocuments
from companion.stores.mongo.presence import MongoPresence
from companion.stores.mongo.revocations import MongoRevocations
from companion.stores.mongo.rules import MongoRules
from companion.stores.mongo.runs import MongoRuns
from companion.stores.mongo.sessions import MongoSessions
from companion.stores.mongo.tokens import MongoTokens
from companion.stores.mongo.uses import MongoUses
from tests.support.mosquitto import free_port

URL: Final = os.environ.get("COMPANION_TEST_MONGO_URL", "")
NEEDED: Final = "no Python 3.13 and no COMPANION_TEST_MONGO_URL: MONGODB IS NOT TESTED"

_ROOT: Final = Path(__file__).parents[2]
_STANDIN: Final = _ROOT / "tests" / "standins" / "mongo"
_VENV: Final = _ROOT / ".venv-mongo"
_INSTALL_SECONDS: Final = 300
_WORDS: Final = 8000


def find_python() -> str | None:
    """Return a Python 3.13 that runs, on the PATH or where pyenv puts it."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which("python3.13"), *sorted(map(str, pyenv.glob("versions/3.13*/bin/python")), reverse=True)]
    for candidate in filter(None, candidates):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            code = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 13))"
            if subprocess.run([candidate, "-c", code], capture_output=True, check=False, timeout=30).returncode == 0:
                return str(candidate)
    return None


def available() -> bool:
    """Tell whether there is a MongoDB for the tests."""
    return bool(URL) or find_python() is not None


def standin_python() -> str:
    """Return the interpreter of the stand-in's virtual environment, which is made where it is missing; skip without 3.13."""
    base = find_python()
    if base is None:
        pytest.skip(NEEDED)
    requirements = _STANDIN / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes() + base.encode()).hexdigest()
    stamp = _VENV / ".ready"
    with (_STANDIN / "requirements.txt").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(_VENV, ignore_errors=True)
            install = ["-m", "pip", "install", "--quiet", "--only-binary=:all:", "--requirement", str(requirements)]
            for command in ([base, "-m", "venv", str(_VENV)], [str(_VENV / "bin" / "python"), *install]):
                subprocess.run(command, check=True, timeout=_INSTALL_SECONDS)
            stamp.write_text(wanted)
    return str(_VENV / "bin" / "python")


class MongoServer:
    """The stand-in as a process of its own, on the same port and data over all its lives."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._python = standin_python()
        self._file = folder / "mongo.sqlite3"
        self._log = folder / "mongo.log"
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet=rs0"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, and return when it serves."""
        command = [self._python, str(_STANDIN / "server.py"), str(self.port), str(self._file)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "up\n", self._log.read_text()

    def words(self) -> str:
        """Return the end of what it has written down: nothing, unless something went wrong in it."""
        return self._log.read_text()[-_WORDS:] if self._log.exists() else ""

    def kill(self) -> None:
        """`kill -9`."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def freeze(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextlib.asynccontextmanager
async def mongo_server(folder: Path) -> AsyncIterator[MongoServer]:
    """Run a stand-in of one's own until the block ends."""
    server = MongoServer(folder)
    server.start()
    try:
        yield server
    finally:
        if server.running:
            server.kill()


class _Shared:
    """The MongoDB of the whole run: every test has databases of its own, and after so many tests there is a new server.

    The stand-in grows slower with every index that it has, in whatever database: they are all on one table of SQLite, and a write
    goes through each of them. What is there no test looks at again.
    """

    def __init__(self) -> None:
        self._servers: list[MongoServer] = []
        self._tests = 0
        self._test = ""

    def url(self) -> str:
        # A test that asks several times gets the same.
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
        if test != self._test:
            self._test, self._tests = test, self._tests + 1
        if not self._servers or self._tests > _TESTS_A_SERVER:
            self._tests = 0
            self._start()
        return self._servers[-1].url

    def _start(self) -> None:
        while self._servers:
            self._servers.pop().kill()
        folder = Path(tempfile.mkdtemp(prefix="companion-mongo-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        server = MongoServer(folder)
        server.start()
        self._servers.append(server)

    def words(self) -> str:
        return "".join(server.words() for server in self._servers)

    def end(self) -> None:
        while self._servers:
            self._servers.pop().kill()


_TESTS_A_SERVER: Final = 10
_shared = _Shared()
atexit.register(_shared.end)


def shared_url() -> str:
    """Return the address of the MongoDB of the whole run; every test has a database of its own."""
    return URL or _shared.url()


def shared_words() -> str:
    """Return what the stand-in of the whole run has to say about errors of its own."""
    return _shared.words()


@dataclass(frozen=True, slots=True)
class MongoPorts:
    """The ports that MongoDB has."""

    client: MongoClient
    accounts: MongoAccounts
    rules: MongoRules
    sessions: MongoSessions
    audits: MongoAudits
    checkpoints: MongoCheckpoints
    runs: MongoRuns
    documents: MongoDocuments
    revocations: MongoRevocations
    presence: MongoPresence
    uses: MongoUses
    tokens: MongoTokens


PORTS: Final = frozenset(
    {"accounts", "rules", "sessions", "tokens", "uses", "audits", "checkpoints", "runs", "revocations", "presence"}
)


@contextlib.asynccontextmanager
async def opened(url: str, database: str, timeout: float = 10.0) -> AsyncIterator[MongoPorts]:  # noqa: ASYNC109 - the setting
    """Open the ports on this database."""
    async with open_mongo(MongoConfig(url, database, timeout)) as client:
        await indexes.ensure(client)
        yield MongoPorts(
            client,
            MongoAccounts(client),
            MongoRules(client),
            MongoSessions(client),
            MongoAudits(client),
            MongoCheckpoints(client),
            MongoRuns(client),
            MongoDocuments(client),
            MongoRevocations(client),
            MongoPresence(client),
            MongoUses(client),
            MongoTokens(client),
        )


def adapter(folder: Path) -> Callable[[], AbstractAsyncContextManager[MongoPorts]]:
    """Return what opens a database of one test."""
    del folder
    url, database = shared_url(), f"test-{secrets.token_hex(6)}"
    return lambda: opened(url, database)
