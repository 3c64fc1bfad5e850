"""A running lab: the wired hosts with real mediators and agents, each with its own keys."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from netctl.config import load_document
from netctl.lab.namespaces import COMMAND_TIMEOUT_S, Holder, Node, environment
from netctl.lab.topology import Topology, make_topology, parse_sidecar
from netctl.lab.wiring import Network, build
from netctl.model.document import Document, Mediator
from netctl.model.errors import EngineError, LocalError, NetctlError
from netctl.system.lineclient import Server, ask
from netctl.wire.agentrequests import Status

DOCUMENT_PATH = "/run/lab/etc/networks.yaml"
STATE_PATH = "/run/lab/state"
RUN_PATH = "/run/netctl"
LOG_PATH = "/run/lab/log"
SERVICE_TIMEOUT_S = 120.0
"""A Python service is up in 0.5 s; ten at once on a small busy machine have taken 30 s."""
POLL_S = 0.1
PARALLEL = 4
"""Commands run in parallel: enough to keep two cores busy, few enough not to starve the agents."""

_WIREGUARD = re.compile(r"(?<![\w+/:])[A-Za-z0-9+/]{43}=")
_IDENTITY = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")

Item = TypeVar("Item")
Result = TypeVar("Result")


def program(name: str) -> str:
    """The path of one of our console scripts: in the interpreter's directory, else on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name, path=environment()["PATH"])
    if found is None:
        raise LocalError(f"{name} is not installed beside {sys.executable}: run `make setup`")
    return found


def in_parallel(
    work: Callable[[Item], Result], items: Iterable[Item], at_once: int = PARALLEL
) -> list[Result]:
    """Run `work` on every item, PARALLEL at a time; results in the order of items. Raises the first error."""
    pool = ThreadPoolExecutor(max_workers=at_once)
    try:
        return list(pool.map(work, items))
    finally:
        # After an error or Ctrl-C, do not wait for running work: it ends with the lab.
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class Lab:
    """A small internet with its running services. `services`: PIDs inside the lab, by host."""

    document: Document
    text: str
    """The document of the members, with the lab's keys."""
    topology: Topology
    network: Network
    services: dict[str, int] = field(default_factory=dict)
    stun_also: str = ""
    """A second address of the mediator's host, for its STUN server."""

    def node(self, name: str) -> Node:
        """A host by name. Raises LocalError, which lists the hosts."""
        hosts = {**self.network.members, **self.network.mediators, **self.network.boxes}
        if name not in hosts:
            raise LocalError(f"no host {name!r} in this lab: there are {', '.join(hosts)}")
        return hosts[name]

    def start_mediator(self, name: str = "mediator", *, relay: bool = True) -> None:
        """Start a mediator, with or without its relay, or a relay apart, and wait until it listens."""
        place = next(entry for entry in self.topology.mediators if entry[1].name == name)
        node = self.node(name)
        command = "relay" if place[0].relay_only else "serve"
        argv = [program("netctl-mediator"), command, "--document", DOCUMENT_PATH, "--state", STATE_PATH]
        if not place[0].relay_only:
            argv += [] if relay else ["--no-relay"]
            argv += ["--stun-also", self.stun_also] if self.stun_also else []
        self.services[name] = node.spawn(argv, LOG_PATH)
        # A relay apart opens its STUN ports last, and no TCP port.
        udp, port = place[0].relay_only, place[0].stun[0] if place[0].relay_only else place[0].port
        self._wait(name, lambda: _listens(node, port, udp=udp), f"listen on port {port}")

    def start_agent(self, name: str) -> None:
        """Start a member's agent and wait until it accepts requests."""
        node = self.node(name)
        self.services[name] = node.spawn([program("netctl"), "agent"], LOG_PATH)
        socket = f"{RUN_PATH}/agent.sock"
        self._wait(
            name, lambda: node.attempt(["test", "-S", socket]).returncode == 0, "open its control socket"
        )

    def stop(self, name: str, number: int = 15) -> None:
        """End the service of a host with signal `number` and wait until it is gone."""
        node, pid = self.node(name), self.services.pop(name)
        node.kill(pid, number)
        deadline = time.monotonic() + SERVICE_TIMEOUT_S
        while node.running(pid):
            if time.monotonic() > deadline:
                raise EngineError(f"the service on {name} does not end on signal {number}")
            time.sleep(POLL_S)

    def apply(self, name: str) -> str:
        """Run `netctl apply` on a member; returns its output. Raises EngineError with its last output."""
        done = self.node(name).attempt([program("netctl"), "apply", "--yes"])
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise EngineError(f"netctl apply on {name}: {said[-1] if said else f'exit {done.returncode}'}")
        return done.stdout

    def log(self, name: str, lines: int = 20) -> str:
        """The end of a service's log."""
        return self.node(name).attempt(["tail", "-n", str(lines), LOG_PATH]).stdout

    def _wait(self, name: str, ready: Callable[[], bool], what: str) -> None:
        node, pid = self.node(name), self.services[name]
        deadline = time.monotonic() + SERVICE_TIMEOUT_S
        while not ready():
            gone = not node.running(pid)
            if gone or time.monotonic() > deadline:
                said = self.log(name).strip().splitlines()
                why = "ended" if gone else f"did not {what} within {SERVICE_TIMEOUT_S:.0f} s"
                raise EngineError(f"the service on {name} {why}: {said[-1] if said else 'it said nothing'}")
            time.sleep(POLL_S)


def read_plan(path: Path, offline: Collection[str] = ()) -> tuple[str, Document, Topology]:
    """Read a document and its lab's topology. Raises NetctlError before anything is started."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise LocalError(f"cannot read {path}: {reason}") from error
    document = load_document(text, str(path)).document
    sidecar = path.with_name(f"{path.stem}.lab.yaml")
    nats = parse_sidecar(sidecar.read_text(), str(sidecar)) if sidecar.exists() else {}
    return text, document, make_topology(document, nats, offline=offline)


def raise_lab(
    holder: Holder,
    path: Path,
    progress: Callable[[str], None],
    environs: Mapping[str, str] | None = None,
    wired: Callable[[Network], None] | None = None,
    *,
    stun_also: str = "",
    offline: Collection[str] = (),
) -> Lab:
    """Build the internet of a document inside `holder` and start all services.

    `environs`: further environment variables for every host. `wired` is called after the wiring and before the
    services, and may change hosts. `stun_also`: a second address that `wired` gave the mediator's host. `offline`:
    members of the document that get no host, and so are never online.
    """
    text, document, topology = read_plan(path, offline)
    programs = [program("netctl"), *([program("netctl-mediator")] if topology.mediators else [])]
    path_variable = f"{Path(programs[0]).parent}:{environment()['PATH']}"
    variables = {
        "NETCTL_CONFIG": DOCUMENT_PATH,
        "NETCTL_STATE": STATE_PATH,
        "NETCTL_RUN": RUN_PATH,
        "PATH": path_variable,
        **(environs or {}),
    }
    for name in topology.left_out:
        progress(f"{name} has no identity (a stock WireGuard app): left out")
    network = build(holder, topology, variables, progress)
    if wired is not None:
        wired(network)
    progress("keys for everybody, made where they stay")
    lab_text = _with_new_keys(text, document, topology, network)
    document = load_document(lab_text, str(path)).document
    lab = Lab(document, lab_text, topology, network, stun_also=stun_also)
    for node in [*network.mediators.values(), *network.members.values()]:
        node.write(DOCUMENT_PATH, lab_text)
    for name in network.mediators:
        apart = any(node.name == name and entry.relay_only for entry, node in topology.mediators)
        progress(f"{name}: netctl-mediator {'relay' if apart else 'serve'}")
        lab.start_mediator(name)
    progress(f"{', '.join(network.members)}: netctl agent")
    in_parallel(lab.start_agent, network.members)
    progress(f"{', '.join(network.members)}: netctl apply")
    in_parallel(lab.apply, network.members)
    return lab


def _with_new_keys(text: str, document: Document, topology: Topology, network: Network) -> str:
    """The document's text with the hosts' new keys in place of the written keys."""
    replace: dict[str, str] = {}

    def member(name: str) -> None:
        said = network.members[name].run([program("netctl"), "keys", "init"])
        wireguard, identity = _WIREGUARD.search(said), _IDENTITY.search(said)
        entry = document.members[name]
        if wireguard is None or identity is None or entry.wireguard is None:
            raise EngineError(f"netctl keys init on {name} printed no keys: {said.strip()[:200]}")
        replace[str(entry.wireguard)] = wireguard.group()
        if entry.identity is not None:
            replace[str(entry.identity)] = identity.group()

    def mediator(place: tuple[Mediator, Any]) -> None:
        said = network.mediators[place[1].name].run(
            [
                program("netctl-mediator"),
                "init",
                "--state",
                STATE_PATH,
                *(["--relay"] if place[0].relay_only else []),
            ]
        )
        identity = _IDENTITY.search(said)
        if identity is None:
            raise EngineError(f"netctl-mediator init printed no identity: {said.strip()[:200]}")
        replace.update((str(key), identity.group()) for key in place[0].identity[:1])

    in_parallel(mediator, topology.mediators)
    in_parallel(member, topology.members)
    return substitute(text, replace)


def substitute(text: str, replace: Mapping[str, str]) -> str:
    """Replace every occurrence of each key in one pass, so that no new key is replaced again."""
    if not replace:
        return text
    # Longest first: an identity contains text of the form of a WireGuard key.
    olds = sorted(replace, key=len, reverse=True)
    return re.sub("|".join(re.escape(old) for old in olds), lambda found: replace[found.group()], text)


def _listens(node: Node, port: int, *, udp: bool) -> bool:
    """Whether a TCP or UDP socket takes what comes to the port: state 0A in /proc/net/tcp, 07 in udp (proc(5))."""
    name, state = ("udp", "07") if udp else ("tcp", "0A")
    table = node.attempt(["cat", f"/proc/net/{name}", f"/proc/net/{name}6"]).stdout
    wanted = f":{port:04X}"
    rows = (line.split() for line in table.splitlines())
    return any(len(row) > 3 and row[1].endswith(wanted) and row[3] == state for row in rows)


def status_of(node: Node) -> dict[str, Any]:
    """What `netctl status -o json` prints on a member. Raises EngineError if the agent does not answer."""
    # Asked here: who waits for a state of the lab asks many times, and a `netctl` each time is most of a small
    # machine's work.
    server = Server(node.path(f"{RUN_PATH}/agent.sock"), "agent", "no agent runs")
    try:
        answer = ask(server, Status(), timeout_s=COMMAND_TIMEOUT_S).plain
    except NetctlError as error:
        raise EngineError(f"status of {node.name}: {error}") from error
    assert isinstance(answer, dict)
    return answer


def statuses_of(members: Mapping[str, Node]) -> dict[str, dict[str, Any]]:
    """The status of every member; an empty status for a member that does not answer."""

    def ask(node: Node) -> dict[str, Any]:
        try:
            return status_of(node)
        except EngineError as error:
            return {"mediator": {"state": "no agent", "error": str(error)}, "networks": {}, "peers": []}

    return dict(zip(members, in_parallel(ask, members.values()), strict=True))
