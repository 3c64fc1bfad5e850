"""A real agent with a hundred peers: its memory, and its processor time while nothing happens. As root.

Run: python bench/agent.py [--peers N] [--online N] [--lazy auto|always|never] [--seconds N]. In network and mount
namespaces of its own: a mediator, the agent with its engine, and the peers as connections to the mediator
(`bench/control.py` has them) that are online and say nothing else. Shown is what `/proc` says of the agent: resident,
of that its own (not shared with other Python processes), threads, open files, and processor time a second once
everybody is known; what is resident of its engine; and how long `netctl apply` takes, the first and one that changes
nothing, and `netctl status`: wall time of the whole command, and processor time of the agent meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from control import TICKS, Mediator, close, log_in, make_members

from netctl.lab.namespaces import OWN_PLACES
from netctl.model.keys import IdentityKey

IN_NAMESPACE = "NETCTL_BENCH_IN_NAMESPACE"
START_S = 60.0
SETTLE_S, SETTLE_PEER_S = 10.0, 0.01
"""Wait after the last peer is known, while candidates are gathered and offered, and more for each peer."""

STATUSES = 5
"""Of which the median is shown."""


def netctl(*arguments: str) -> str:
    """Run a netctl command; returns its output."""
    command = [sys.executable, "-P", "-m", "netctl.cli.main", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Took:
    """What a command took: wall time, and the agent's processor time meanwhile, in milliseconds."""

    wall_ms: float
    agent_ms: float

    def __str__(self) -> str:
        return f"{self.wall_ms:.0f} ms ({self.agent_ms:.0f} of the agent's processor time)"


async def timed(pid: int, *arguments: str) -> Took:
    """Run a netctl command. `pid`: the agent's."""
    spent, began = facts(pid)["cpu_s"], time.monotonic()
    await asyncio.to_thread(netctl, *arguments)
    return Took((time.monotonic() - began) * 1000, (facts(pid)["cpu_s"] - spent) * 1000)


def engine_mb() -> float:
    """Resident memory of the agent's engine. This namespace has no other one."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if "netctl-wg nctl0" in (process / "cmdline").read_bytes().replace(b"\0", b" ").decode():
                return facts(int(process.name))["resident_mb"]
    return math.nan


def facts(pid: int) -> dict[str, float]:
    """Memory, threads, files and processor time of a process, from proc(5)."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return {
        "resident_mb": int(status["VmRSS"].split()[0]) / 1024,
        "own_mb": own / 1024,
        "threads": int(status["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "cpu_s": (int(fields[11]) + int(fields[12])) / TICKS,
    }


async def measure(directory: Path, count: int, online_count: int, lazy: str, seconds: float) -> None:
    """Start everything, measure and print."""
    mediator = Mediator(directory)
    members = make_members(count)
    mediator.write(members, count)
    document = json.loads((directory / "networks.yaml").read_text())
    agent_state = directory / "agent"
    os.environ.update(
        NETCTL_CONFIG=str(directory / "networks.yaml"),
        NETCTL_STATE=str(agent_state),
        NETCTL_RUN=str(directory / "run"),
    )
    netctl("keys", "init")
    keys = json.loads(netctl("keys", "show", "-o", "json"))
    document["members"]["me"] = {"wireguard": keys["wireguard"], "identity": keys["identity"]}
    document["networks"]["n0"]["members"].append("me")
    document["networks"]["n0"]["lazy"] = lazy
    (directory / "networks.yaml").write_text(json.dumps(document))
    mediator.start()
    log = (directory / "agent.log").open("w")
    agent = subprocess.Popen([sys.executable, "-P", "-m", "netctl.cli.main", "agent"], stderr=log, stdout=log)
    try:
        while not (directory / "run" / "agent.sock").exists():
            await asyncio.sleep(0.2)
        await log_in(members[:online_count], IdentityKey.parse(mediator.pin))
        first_apply = await timed(agent.pid, "apply", "--yes")
        deadline = time.monotonic() + START_S
        while (known := await asyncio.to_thread(online)) < online_count:
            if agent.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{known} of {online_count} known: {(directory / 'agent.log').read_text()}"
                )
            await asyncio.sleep(0.5)
        await asyncio.sleep(SETTLE_S + SETTLE_PEER_S * count)
        before = facts(agent.pid)
        await asyncio.sleep(seconds)
        after = facts(agent.pid)
        statuses = [await timed(agent.pid, "status", "-o", "json") for _ in range(STATUSES)]
        status = sorted(statuses, key=lambda took: took.wall_ms)[STATUSES // 2]
        apply = await timed(agent.pid, "apply", "--yes")
        spent = (after["cpu_s"] - before["cpu_s"]) / seconds
        print(
            f"{count} peers: {after['resident_mb']:.1f} MB resident, {after['own_mb']:.1f} of its own, "
            f"{after['threads']:.0f} threads, {after['files']:.0f} files, {spent * 100:.2f} % of a core, "
            f"engine {engine_mb():.1f} MB resident\n"
            f"netctl apply: the first {first_apply}, without changes {apply}; netctl status {status}\n"
            f"afterwards {facts(agent.pid)['resident_mb']:.1f} MB resident"
        )
    finally:
        agent.terminate()
        agent.wait(20)
        log.close()
        close(members[:online_count])
        mediator.stop()


def online() -> int:
    """Count of peers that the agent sees online."""
    try:
        status = json.loads(netctl("status", "-o", "json"))
    except subprocess.CalledProcessError:
        return 0
    return sum(bool(peer.get("online")) for peer in status["peers"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", type=int, default=100)
    parser.add_argument("--online", type=int, help="how many of them are online; default: all")
    parser.add_argument("--lazy", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--seconds", type=float, default=30, help="of looking on while nothing happens")
    arguments = parser.parse_args()
    if IN_NAMESPACE not in os.environ:
        if os.geteuid() != 0:
            parser.error("a network namespace of its own needs root")
        os.environ[IN_NAMESPACE] = "1"
        again = [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
        own = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        # A separate hosts file: the agent writes names of peers into it.
        inside = f'{OWN_PLACES}\nmount --make-rprivate / && own_places && ip link set lo up && exec "$@"'
        os.execvp(own[0], [*own, "sh", "-c", inside, "sh", *again])
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        online_count = arguments.peers if arguments.online is None else min(arguments.online, arguments.peers)
        runner.run(measure(Path(name), arguments.peers, online_count, arguments.lazy, arguments.seconds))


if __name__ == "__main__":
    main()
