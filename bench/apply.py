"""What an apply costs, beside WireGuard's own tools: `python bench/apply.py [--quick] [--peers N]` as root.

Runs in namespaces of its own. Every figure is a median in milliseconds, with its ratio to a peer of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what an apply imports is measured, too
    from netctl.model.addresses import SocketAddress
    from netctl.model.hoststate import HostState

INSIDE = "NETCTL_BENCH_INSIDE"
PRIVATE = "mount --make-rprivate / && mount -t tmpfs tmpfs /run && ip link set lo up && exec"
BIN = Path(sys.executable).parent
KEY = "host-0"
SILENT_READS = 10
ASKING = "netctl.cli.main, netctl.cli.commands.apply, netctl.cli.planfile, netctl.model.errors"
ALONE = (
    f"{ASKING}, netctl.agent.oneshot, netctl.agent.storage.statestore, netctl.agent.host, "
    "netctl.agent.storage.keyfiles, netctl.node.planreport, pyroute2"
)
"""The modules that commands import first: with an agent, and without one."""


def inside() -> None:
    """Run this program again in its own network, mount and process namespace."""
    if INSIDE in os.environ:
        return
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    script = f'{PRIVATE} "$0" "$@"'
    os.environ[INSIDE] = "1"
    os.execvp("unshare", [*command, "sh", "-c", script, sys.executable, *sys.argv])


def private(name: str) -> bytes:
    """A private key, the same in each run."""
    return hashlib.blake2s(name.encode()).digest()


def public(name: str) -> str:
    """A public key by name; a private half is needed only for this host's own key."""
    if name != KEY:
        return base64.b64encode(hashlib.blake2s(f"public {name}".encode()).digest()).decode()
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.from_private_bytes(private(name))
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def document(peers: int, port: int = 51820) -> str:
    """A document with one routed network of this host and `peers` peers; the last peer has `port`."""
    lines = ["apiVersion: netctl/v1", "mediators: []", "members:"]
    for i in range(peers + 1):
        endpoint = f"198.18.{i >> 8}.{i & 255}:{port if i == peers else 51820}"
        lines.append(f'  host-{i}: {{wireguard: "{public(f"host-{i}")}", endpoints: ["{endpoint}"]}}')
    lines += ["networks:", "  fleet:", "    mode: routed", "    ipv4: 10.64.0.0/16", '    members: ["*"]']
    lines.append("    addresses:")
    lines += [f"      host-{i}: 10.64.{(i + 1) >> 8}.{(i + 1) & 255}" for i in range(peers + 1)]
    return "\n".join(lines) + "\n"


class Clock:
    """Medians of milliseconds."""

    def __init__(self, runs: int) -> None:
        self.runs = runs

    def of(self, work: Callable[[], object]) -> float:
        """The median of some runs."""
        found = []
        for _ in range(self.runs):
            start = time.perf_counter()
            work()
            found.append((time.perf_counter() - start) * 1000)
        return statistics.median(found)


def program(*argv: str, text: str | None = None) -> Callable[[], str]:
    """A function that runs a program and returns its output. A failure ends the benchmark."""

    def run() -> str:
        done = subprocess.run(argv, capture_output=True, text=True, input=text, timeout=300, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout

    return run


def row(name: str, milliseconds: float, peer: float | None = None) -> None:
    """Print one line of the table."""
    print(
        f"  {name:<46}{milliseconds:9.1f} ms" + (f"{milliseconds / peer:8.1f} x" if peer else ""), flush=True
    )


def start_up(clock: Clock) -> None:
    """Measure `netctl --version`, compared with an interpreter that does nothing."""
    print("CLI start-up (aim: 2 x)")
    nothing = clock.of(program(sys.executable, "-c", "pass"))
    row("python -c pass", nothing)
    row("netctl --version", clock.of(program(str(BIN / "netctl"), "--version")), nothing)


def first(clock: Clock, peers: int, state: Path, *, keepalive: bool) -> None:
    """Measure the first apply of all peers, compared with their `wg setconf`, each on a new netctl-wg."""
    from netctl.engine import apply_plan, open_engine
    from netctl.engine.wireguard.uapiclient import read_private_key
    from netctl.model.hoststate import HostState

    desired = state_of(document(peers)) if keepalive else quiet(state_of(document(peers)))
    config = (
        f"[Interface]\nPrivateKey = {base64.b64encode(read_private_key(state / 'wireguard.key')).decode()}\n"
    )
    link = desired.wireguard
    assert link is not None
    for peer in link.peers.values():
        allowed = ", ".join(map(str, peer.allowed_ips))
        config += f"[Peer]\nPublicKey = {peer.key}\nAllowedIPs = {allowed}\nEndpoint = {peer.endpoint}\n"
        config += f"PersistentKeepalive = {peer.keepalive_s}\n"  # the link is up: each starts a handshake
    (state / "peers.conf").write_text(config)
    setconf, applied, only_peers = [], [], []
    for _ in range(clock.runs):
        subprocess.run([BIN / "netctl-wg", "bench0"], check=True)
        program("ip", "link", "set", "bench0", "up")()
        start = time.perf_counter()
        program("wg", "setconf", "bench0", str(state / "peers.conf"))()
        setconf.append((time.perf_counter() - start) * 1000)
        program("ip", "link", "del", "bench0")()
        engine = open_engine(
            state / "wireguard.key", kind="netctl-wg", state_dir=state, hosts_file=state / "hosts"
        )
        # Link and filter first: the engine's start is not measured.
        apply_plan(engine, replace(desired, wireguard=replace(link, peers={}), routes=frozenset(), names={}))
        start = time.perf_counter()
        without = replace(desired, routes=frozenset(), names={})
        assert apply_plan(engine, without).changed == peers
        only_peers.append((time.perf_counter() - start) * 1000)
        start = time.perf_counter()
        outcome = apply_plan(engine, desired)
        assert outcome.changed, outcome
        applied.append(only_peers[-1] + (time.perf_counter() - start) * 1000)
        apply_plan(engine, HostState())
        engine.close()
    which = "each shaking hands at once" if keepalive else "without keepalives"
    print(f"\nFirst apply of {peers} peers on netctl-wg, {which} (aim: 3 x)")
    peer_time = statistics.median(setconf)
    row("wg setconf", peer_time)
    row("apply: peers, read back and verified", statistics.median(only_peers), peer_time)
    row("apply: the same, routes and names", statistics.median(applied), peer_time)


def quiet(state: HostState) -> HostState:
    """The state without keepalives, so that an engine starts no handshake itself."""
    assert state.wireguard is not None
    peers = {key: replace(peer, keepalive_s=0) for key, peer in state.wireguard.peers.items()}
    return replace(state, wireguard=replace(state.wireguard, peers=peers))


def state_of(text: str) -> HostState:
    """This host's desired state from a document."""
    from netctl.agent.transport.endpointnames import look_up_once, names_of
    from netctl.config import load_document, resolve

    loaded = load_document(text).document
    live = frozenset(member.wireguard for member in loaded.members.values() if member.wireguard)
    return resolve(loaded, KEY, None, live=live, resolved=asyncio.run(look_up_once(names_of(loaded)))).state


def no_op(clock: Clock, peers: int, state: Path) -> None:
    """Measure an apply without changes: as a command, and stage by stage in this process."""
    from netctl.agent.storage.documentcache import CompiledDocuments
    from netctl.agent.transport.endpointnames import look_up_once, names_of
    from netctl.config import clear_of, load_document, resolve
    from netctl.engine import apply_plan, open_engine
    from netctl.plan import diff

    text = document(peers)
    file = state / "networks.yaml"
    file.write_text(text)
    apply = program(str(BIN / "netctl"), "apply", "--engine", "netctl-wg", str(file))
    apply()
    print(f"\nNo-op apply, {peers} peers")
    dump = clock.of(program("wg", "show", "all", "dump"))
    row("wg show all dump", dump)
    imports = program(sys.executable, "-c", f"import {ALONE}")
    imports()
    start = clock.of(imports)
    row("start-up without an agent: interpreter, imports", start)
    alone = clock.of(apply)
    row("netctl apply without an agent, less start-up", alone - start, dump)
    compiled = state / "compiled.json"

    def cold() -> None:
        compiled.unlink()
        apply()

    row("the same, the document not compiled yet", clock.of(cold) - start, dump)
    agent = subprocess.Popen([BIN / "netctl", "agent", "--engine", "netctl-wg"], stdout=-3, stderr=-3)
    try:
        deadline = time.monotonic() + 60
        while not Path(os.environ["NETCTL_RUN"], "agent.sock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        apply()
        start = clock.of(program(sys.executable, "-c", f"import {ASKING}"))
        row("start-up with an agent", start)
        row("netctl apply by the agent, less start-up", clock.of(apply) - start, dump)
    finally:
        agent.terminate()
        agent.wait(20)
    loaded = load_document(text).document
    live = frozenset(member.wireguard for member in loaded.members.values() if member.wireguard)
    engine = open_engine(
        state / "wireguard.key", kind="netctl-wg", state_dir=state, hosts_file=state / "hosts"
    )

    def named() -> dict[str, SocketAddress]:
        return asyncio.run(look_up_once(names_of(loaded)))

    resolved = named()
    foreign = engine.foreign()
    desired = resolve(loaded, KEY, None, live=live, resolved=resolved).state
    actual = engine.read()
    assert not diff(desired, actual), diff(desired, actual)
    row("  stage: load the document", clock.of(lambda: load_document(text)), dump)
    documents = [CompiledDocuments(compiled) for _ in range(clock.runs)]
    row("  stage: load the compiled document", clock.of(lambda: documents.pop().load(text, "x")), dump)
    row("  stage: look up endpoints", clock.of(named), dump)
    row("  stage: look for what is foreign", clock.of(engine.foreign), dump)
    row("  stage: hold the document against it", clock.of(lambda: clear_of(loaded, KEY, foreign)), dump)
    work = lambda: resolve(loaded, KEY, None, live=live, resolved=resolved)  # noqa: E731
    row("  stage: resolve", clock.of(work), dump)
    row("  stage: read the host", clock.of(engine.read), dump)
    row("  stage: compare", clock.of(lambda: diff(desired, actual)), dump)
    row("  all of apply_plan", clock.of(lambda: apply_plan(engine, desired)), dump)
    engine.close()


def one_of_many(clock: Clock, sizes: list[int], state: Path) -> None:
    """Measure the change of one peer of N: the reading grows with N, the change itself does not."""
    from netctl.engine import apply_plan, open_engine

    print("\nOne of N peers changes (without keepalives)")
    print(f"  {'N':>7}{'wg dump':>12}{'read':>12}{'compare':>12}{'change':>12}{'apply in all':>14}   ms")
    for peers in sizes:
        engine = open_engine(
            state / "wireguard.key", kind="netctl-wg", state_dir=state, hosts_file=state / "hosts"
        )
        base, other = (quiet(state_of(document(peers, port))) for port in (51820, 4000))
        outcome = apply_plan(engine, base)
        assert outcome.error is None, outcome
        from netctl.plan import diff

        dump = clock.of(program("wg", "show", "all", "dump"))
        read = clock.of(engine.read)
        actual = engine.read()
        compare = clock.of(lambda: diff(other, actual))  # noqa: B023
        change = diff(other, actual).changes
        assert len(change) == 1, change
        step = clock.of(lambda: engine.apply(change[0]))  # noqa: B023
        found = []
        for turn in range(clock.runs):
            want = base if turn % 2 == 0 else other
            start = time.perf_counter()
            assert apply_plan(engine, want).changed == 1
            found.append((time.perf_counter() - start) * 1000)
        whole = statistics.median(found)
        print(
            f"  {peers:>7}{dump:>12.1f}{read:>12.1f}{compare:>12.1f}{step:>12.2f}{whole:>14.1f}", flush=True
        )
        engine.close()


def silent(peers: int, state: Path) -> None:
    """Measure the first apply of many silent peers with keepalives, and netctl-wg's response times meanwhile."""
    from netctl.engine import apply_plan, open_engine
    from netctl.model.hoststate import HostState

    engine = open_engine(
        state / "wireguard.key", kind="netctl-wg", state_dir=state, hosts_file=state / "hosts"
    )
    apply_plan(engine, HostState())
    desired = state_of(document(peers))
    start = time.perf_counter()
    outcome = apply_plan(engine, desired)
    took = (time.perf_counter() - start) * 1000
    assert outcome.error is None, outcome
    answers = []
    for _ in range(SILENT_READS):
        start = time.perf_counter()
        engine.read()
        answers.append((time.perf_counter() - start) * 1000)
        time.sleep(1)
    print(f"\n{peers} peers with keepalives, none of which answers")
    row("first apply of all", took)
    row("reading the host afterwards, median", statistics.median(answers))
    row("reading the host afterwards, slowest", max(answers))
    apply_plan(engine, HostState())
    engine.close()


def main() -> None:
    """Measure and print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs, and no more than 1,000 peers")
    parser.add_argument("--peers", type=int, default=1000)
    parser.add_argument("--silent", action="store_true", help="only the table of peers that do not answer")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("wg") is None:
        sys.exit("bench/apply.py needs root and the program wg")
    inside()
    clock = Clock(3 if arguments.quick else 7)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        os.environ |= {f"NETCTL_{what}": name for what in ("STATE", "RUN")}
        os.environ |= {"NETCTL_HOSTS": f"{name}/hosts", "NETCTL_CONFIG": f"{name}/networks.yaml"}
        (state / "hosts").touch()
        for key in ("wireguard", "identity"):
            (state / f"{key}.key").write_text(base64.b64encode(private(KEY)).decode())
            (state / f"{key}.key").chmod(0o600)
        if arguments.silent:
            silent(1000 if arguments.quick else 10_000, state)
            return
        start_up(clock)
        for keepalive in (True, False):
            first(clock, arguments.peers, state, keepalive=keepalive)
        no_op(clock, arguments.peers, state)
        one_of_many(clock, [100, 300, 1000] if arguments.quick else [100, 300, 1000, 3000, 10_000], state)
        silent(1000 if arguments.quick else 10_000, state)


if __name__ == "__main__":
    main()
