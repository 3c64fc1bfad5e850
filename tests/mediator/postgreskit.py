"""A real PostgreSQL of the tests' own, on a Unix socket in a directory of theirs, run by a user who is not root."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediator.shell.postgresplace import PostgresPlace
from tests.support.lifeline import tether
from tests.support.patience import BUSY_S, wait_for

_NUMBERS = itertools.count()


def programs() -> Path | None:
    """The directory of the newest PostgreSQL's programs."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    if found:
        return Path(found[-1]).parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there is not None else None


def why_not() -> str | None:
    """Why there is no PostgreSQL to test with; None: there is."""
    if programs() is None:
        return "no PostgreSQL here: scripts/setup installs it"
    if os.geteuid() == 0 and not owner():
        return "root cannot run PostgreSQL, and there is no user 'postgres' or 'nobody'"
    return None


def owner() -> str:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return ""


def kill_all_of(data: Path) -> None:
    """The processes of a server, which all work in its directory. One that is not gone yet holds its memory: as long as
    that is so, the next server refuses to start.
    """
    there = str(data.resolve())

    def gone() -> bool:
        left = False
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if os.readlink(process / "cwd") == there:
                    left = True
                    os.kill(int(process.name), signal.SIGKILL)
        return not left

    wait_for("PostgreSQL is gone", gone, every_s=0.02)


class Postgres:
    """One server. `durable`: as in earnest; `port`: it listens on loopback too; `of`: whose standby it is."""

    def __init__(
        self, directory: Path, *, durable: bool = False, port: int = 0, of: Postgres | None = None
    ) -> None:
        self.directory, self._log = directory, directory / "log"
        self._durable, self._port = durable, port
        self._root = os.geteuid() == 0
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        if self._root:
            shutil.chown(directory, owner())
        if of is not None:
            words = ["-h", str(of.directory), "-p", str(of.port), "-U", "netctl", "-D", str(self.data), "-N"]
            self._run("pg_basebackup", *words, "--write-recovery-conf", "--checkpoint=fast")
            return
        words = ["-D", str(self.data), "-A", "trust", "-U", "netctl", "-E", "UTF8", "-N"]
        # It sorts by a language, as most do, and not by bytes.
        self._run("initdb", *words, "--locale-provider=icu", "--icu-locale=en-US")

    @property
    def port(self) -> int:
        """Its Unix socket has one in its name, too."""
        return self._port or 5432

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def _command(self, program: str, *words: str) -> list[str]:
        there = programs()
        assert there is not None
        before = [
            "setpriv",
            f"--reuid={owner()}",
            f"--regid={pwd.getpwnam(owner()).pw_gid}",
            "--clear-groups",
        ]
        return [*(before if self._root else []), str(there / program), *words]

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            self._command(program, *words),
            check=True,
            capture_output=True,
            cwd="/",
            env={"LC_ALL": "C.UTF-8"},
        )

    def start(self) -> None:
        """And wait until it answers."""
        sync = "on" if self._durable else "off"
        words = ["-D", str(self.data), "-k", str(self.directory), "-c", f"fsync={sync}"]
        words += ["-h", "127.0.0.1" if self._port else "", "-p", str(self.port)]
        words += ["-c", "shared_buffers=16MB", "-c", "max_connections=30"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command("postgres", *words), stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        tether(self.process.pid, self.directory)
        self.wait_ready()

    def wait_ready(self) -> None:
        import psycopg

        def ready() -> bool:
            with contextlib.suppress(psycopg.Error):
                psycopg.connect(self.dsn("postgres")).close()
                return True
            return False

        wait_for("PostgreSQL answers", ready)

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes: each is a group of its own."""
        assert self.process is not None
        one = self.process.pid
        for each in [one, *map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, number)

    def kill(self) -> None:
        """`kill -9`: the whole of it at once, as a machine that loses power."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(BUSY_S)
        kill_all_of(self.data)

    def stop(self) -> None:
        """In good order, at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(BUSY_S)

    def dsn(self, database: str) -> str:
        return f"postgresql://netctl@/{database}?host={self.directory}&port={self.port}"

    def database(self) -> str:
        """The address of a new, empty database."""
        import psycopg

        name = f"t{next(_NUMBERS)}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def place(self) -> PostgresPlace:
        """A new, empty one."""
        return PostgresPlace.parse(self.database())


@contextlib.contextmanager
def running(*, durable: bool = False, port: int = 0, of: Postgres | None = None) -> Iterator[Postgres]:
    """A server for the block, whose files are in memory where nothing has to be durable."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="netctl-pg-", dir=memory) as name:
        server = Postgres(Path(name), durable=durable, port=port, of=of)
        server.start()
        try:
            yield server
        finally:
            server.stop()
