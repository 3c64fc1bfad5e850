"""PostgreSQL under Patroni, from Debian's packages, which are unpacked and not installed: two nodes and a voter."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.mediator.loopbackkit import HOST
from tests.mediator.postgreskit import kill_all_of, owner, programs, why_not
from tests.support.apart import on_the_machine
from tests.support.freeports import free_port
from tests.support.lifeline import tether
from tests.support.patience import BUSY_S, wait_for

PACKAGES = (
    "patroni",
    "python3-cdiff",
    "python3-click",
    "python3-cryptography",
    "python3-dateutil",
    "python3-pkg-resources",
    "python3-prettytable",
    "python3-psutil",
    "python3-psycopg2",
    "python3-pysyncobj",
    "python3-six",
    "python3-urllib3",
    "python3-wcwidth",
    "python3-yaml",
    "libpq5",
)
ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".cache" / "patroni"
PYTHON = "/usr/bin/python3"
"""The packages are for Debian's own."""
VOTE = "from patroni.raft_controller import main; main()"
TTL_S = 5
"""Seconds after which a silent leader has lost its place; Patroni wants `loop_wait` + 2 × `retry_timeout`."""


def unpacked() -> Path:
    """Where Patroni is, for PYTHONPATH. Skips the test where its packages cannot be had."""
    found = PLACE / "root/usr/lib/python3/dist-packages"
    if (found / "patroni").exists():
        return found
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    if shutil.which("apt-get") is None or not Path(PYTHON).exists():
        pytest.skip("Patroni is tested with Debian's packages, and this is no Debian")
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE) as name, on_the_machine():
        words = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *PACKAGES]
        done = subprocess.run(words, cwd=name, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"Patroni's packages cannot be had: {done.stderr.strip().splitlines()[-1:]}")
        beside = Path(name) / "root"
        for package in Path(name).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(beside)], check=True)
        beside.rename(PLACE / "root")
    return found


class Node:
    """A node of Patroni. `data` False: it only votes."""

    def __init__(self, directory: Path, name: str, raft: list[int], own: int, *, data: bool = True) -> None:
        self.name, self.port, self.rest = name, free_port(), free_port()
        self._directory, self._data = directory / name, data
        self._directory.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        shutil.chown(self._directory, owner())
        partners = [f"{HOST}:{port}" for port in raft if port != own]
        text: dict[str, Any] = {
            "raft": {
                "data_dir": str(self._directory / "raft"),
                "self_addr": f"{HOST}:{own}",
                "partner_addrs": partners,
            }
        }
        if data:
            text |= self._node()
        self._file = self._directory / "patroni.yml"
        self._file.write_text(json.dumps(text))  # JSON is YAML
        self._file.chmod(0o644)

    def _node(self) -> dict[str, Any]:
        there = programs()
        assert there is not None
        access = [
            "local all all trust",
            f"host all all {HOST}/32 trust",
            f"host replication all {HOST}/32 trust",
        ]
        return {
            "scope": "netctl",
            "name": self.name,
            "restapi": {"listen": f"{HOST}:{self.rest}", "connect_address": f"{HOST}:{self.rest}"},
            "bootstrap": {
                "dcs": {"ttl": TTL_S, "loop_wait": 1, "retry_timeout": 2, "synchronous_mode": True},
                "initdb": [{"encoding": "UTF8"}, {"auth": "trust"}],
                "pg_hba": access,
            },
            "postgresql": {
                "listen": f"{HOST}:{self.port}",
                "connect_address": f"{HOST}:{self.port}",
                "data_dir": str(self._directory / "data"),
                "bin_dir": str(there),
                "pgpass": str(self._directory / "pgpass"),
                "pg_hba": access,
                "authentication": {
                    "superuser": {"username": "netctl", "password": "x"},
                    "replication": {"username": "copies", "password": "x"},
                },
                "parameters": {
                    "unix_socket_directories": str(self._directory),
                    "shared_buffers": "16MB",
                    "max_connections": 40,
                },
            },
        }

    def start(self, where: Path) -> None:
        run = ["-m", "patroni"] if self._data else ["-c", VOTE]
        user = pwd.getpwnam(owner())
        before = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        command = [PYTHON, *run, str(self._file)]
        environment = {"PYTHONPATH": str(where), "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*(before if os.geteuid() == 0 else []), *command],
                env=environment,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        tether(self.process.pid, self._directory.parent)

    def state(self, of: str = "patroni") -> dict[str, Any]:
        """What Patroni says of this node, or of the `cluster`; empty: nothing."""
        with contextlib.suppress(OSError, ValueError):
            try:
                with urllib.request.urlopen(f"http://{HOST}:{self.rest}/{of}", timeout=BUSY_S) as answer:
                    found: dict[str, Any] = json.load(answer)
                    return found
            except urllib.error.HTTPError as error:
                with error:
                    return dict(json.load(error))
        return {}

    def log(self) -> str:
        return (self._directory / "log").read_text()[-3000:]

    def kill(self) -> None:
        """`kill -9` of PostgreSQL and Patroni, as a machine that loses power."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(BUSY_S)
        with contextlib.suppress(OSError, ValueError):
            server = int((self._directory / "data/postmaster.pid").read_text().splitlines()[0])
            children = map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
            for each in [server, *children]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        kill_all_of(self._directory / "data")


class Pair:
    """A primary with its synchronous standby, and what votes with them."""

    def __init__(self, directory: Path, where: Path) -> None:
        raft = [free_port() for _ in range(3)]
        self.nodes = [Node(directory, name, raft, own) for name, own in zip(("a", "b"), raft, strict=False)]
        self.vote = Node(directory, "vote", raft, raft[2], data=False)
        self._where = where

    def start(self) -> None:
        """And wait for a primary with a synchronous standby."""
        for node in (*self.nodes, self.vote):
            node.start(self._where)

        def whole() -> bool:
            ended = [
                node.name
                for node in (*self.nodes, self.vote)
                if node.process and node.process.poll() is not None
            ]
            assert not ended, f"Patroni has ended: {ended}"
            # PostgreSQL names a synchronous standby up to a second before Patroni has written down whom it may promote.
            promotable = [
                any(
                    member.get("role") == "sync_standby"
                    for member in node.state("cluster").get("members", ())
                )
                for node in self.nodes
            ]
            states = [node.state() for node in self.nodes]
            primary = next((one for one in states if one.get("role") in ("master", "primary")), {})
            copies = primary.get("replication", ())
            return all(promotable) and any(copy.get("sync_state") == "sync" for copy in copies)

        try:
            wait_for("a primary has a synchronous standby", whole)
        except AssertionError as error:
            error.add_note("\n".join(node.log() for node in self.nodes))
            raise

    @property
    def primary(self) -> Node:
        found: list[Node] = []

        def there() -> list[Node]:
            found[:] = [node for node in self.nodes if node.state().get("role") in ("master", "primary")]
            return found

        wait_for("a node is the primary", there)
        return found[0]

    def database(self) -> str:
        """A new one, at whichever node takes writes."""
        with psycopg.connect(
            f"postgresql://netctl@{HOST}:{self.primary.port}/postgres", autocommit=True
        ) as one:
            one.execute("CREATE DATABASE store")
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.nodes)
        return f"postgresql://netctl@{hosts}/store"

    def stop(self) -> None:
        for node in (*self.nodes, self.vote):
            if node.process is not None and node.process.poll() is None:
                node.kill()


@contextlib.contextmanager
def under_patroni() -> Iterator[Pair]:
    """Two nodes for the block."""
    where = unpacked()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="netctl-pg-", dir=memory) as name:
        directory = Path(name)
        directory.chmod(0o755)
        readable = (
            directory / "python"
        )  # PostgreSQL's user may not look into whoever's home the checkout is in
        shutil.copytree(where, readable)
        pair = Pair(directory, readable)
        try:
            pair.start()
            yield pair
        finally:
            pair.stop()
