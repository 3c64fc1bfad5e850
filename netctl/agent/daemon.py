"""`netctl agent`: the process around an Agent."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from netctl.agent.agent import DRIFT_S, Agent
from netctl.agent.host import Host
from netctl.agent.keys import Keys, load_keys
from netctl.agent.memory import Memory
from netctl.agent.metrics import MetricsServer
from netctl.agent.places import Places
from netctl.agent.server import ControlServer
from netctl.agent.talk import say
from netctl.engine import Engine, open_engine
from netctl.engine.privilege import check_privileges
from netctl.model.errors import LocalError

LOCK_WAIT_S = 30.0
"""How long a command waits for another that is changing this host."""
START_WAIT_S = 5.0
"""How long an agent that starts waits: a roll-back without an agent may be under way."""
LOCK_POLL_S = 0.1


def _quiet(line: str) -> None:
    """Tell nobody."""


@contextlib.contextmanager
def only_writer(
    places: Places, *, wait_s: float = 0.0, progress: Callable[[str], None] = _quiet
) -> Iterator[IO[str]]:
    """Hold the host's lock, waiting for it at most `wait_s`. Raises LocalError when somebody else holds it."""
    try:
        places.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = open(places.lock, "a+")  # noqa: SIM115 - closed below, after the yield
    except OSError as error:
        raise LocalError(f"cannot write to {places.state}: {error.strerror}; run this as root") from error
    with file:
        deadline, said = time.monotonic() + wait_s, False
        while not _locked(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            if time.monotonic() >= deadline:
                waited = f"; waited {wait_s:.0f} s" if wait_s else ""
                message = f"another netctl (process {holder}) is changing this host{waited}"
                raise LocalError(f"{message}; wait for it, or stop it")
            if not said:
                progress(f"waiting for another netctl (process {holder}) that is changing this host")
                said = True
            time.sleep(LOCK_POLL_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def run_agent(
    places: Places,
    engine: str,
    drift_s: float = DRIFT_S,
    *,
    watch: bool = True,
    metrics: str | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. Raises NetctlError when it cannot start.

    `drift_s`: seconds between two looks at whether the host departs from its document. `watch`: follow saves of it.
    `metrics`: HOST:PORT for Prometheus.
    """
    check_privileges()
    keys = load_keys(places)
    with only_writer(places, wait_s=START_WAIT_S):
        asyncio.run(_main(places, keys, engine, drift_s, watch, metrics))


async def _main(
    places: Places, keys: Keys, engine: str, drift_s: float, watch: bool, metrics: str | None
) -> None:
    def open_host() -> Engine:
        return open_engine(places.private_key, kind=engine, state_dir=places.state, hosts_file=places.hosts)

    loop = asyncio.get_running_loop()
    followed = places.config if watch else None
    agent = Agent(keys, Memory(places), Host(open_host), drift_s=drift_s, watch=followed)
    server = ControlServer(agent, places)
    page = MetricsServer(agent, metrics) if metrics is not None else None
    await server.start()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    say(f"netctl agent, key {keys.wireguard}")
    try:
        if page is not None:
            await page.start()
        await agent.run()
    except asyncio.CancelledError:
        say("stopping; the tunnels stay")
    finally:
        if page is not None:
            await page.close()
        await server.close()


def read_document(path: Path) -> str:
    """The text of a document. Raises LocalError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LocalError(f"there is no {path}; name another with --config") from None
    except PermissionError:
        raise LocalError(f"{path} may not be read by this user") from None
    except IsADirectoryError:
        raise LocalError(f"{path} is a directory; name the file") from None
    except UnicodeDecodeError as error:
        raise LocalError(f"{path} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}") from error
