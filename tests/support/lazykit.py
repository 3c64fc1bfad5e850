"""Lazy pairs in a lab: a network of some agents and many members that are only names, and what first packets get."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass

from netctl.lab.internet import Lab, statuses_of
from netctl.lab.probes import host_name
from tests.support.documents import key
from tests.support.patience import BUSY_S, wait_for

NETWORK = "field"
HARD = 2
"""So many pairs, the last ones, are behind NATs between which no direct path leads."""


@dataclass(frozen=True)
class Crowd:
    """A network of `agents` members with agents, and `names` members that are never online."""

    agents: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, agents: int, names: int) -> Crowd:
        """So many; an even number of agents."""
        assert agents % 2 == 0
        return cls(
            tuple(f"agent-{number}" for number in range(agents)),
            tuple(f"name-{number}" for number in range(names)),
        )

    @property
    def document(self) -> str:
        """The network is as a document without `lazy` has it."""
        members = {
            name: {"wireguard": key(name), "identity": _identity(name)}
            for name in (*self.agents, *self.names)
        }
        mediator = {
            "url": "netctl://m1.example.net:8443",
            "identity": [_identity("mediator")],
            "relayPorts": "20000-22499",
        }
        network = {"mode": "routed", "ipv4": "10.9.0.0/16", "members": ["*"]}
        tree = {
            "apiVersion": "netctl/v1",
            "mediators": [mediator],
            "members": members,
            "networks": {NETWORK: network},
        }
        return json.dumps(tree, indent=0)

    @property
    def nats(self) -> str:
        """The sidecar file: each agent is behind a NAT of its own."""
        hard = {name for pair in self.pairs[-HARD:] for name in pair}
        boxes = {
            f"box-of-{name}": {
                "kind": "symmetric-random" if name in hard else "port-restricted",
                "members": [name],
            }
            for name in self.agents
        }
        return json.dumps({"nats": boxes})

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each agent in one pair."""
        return list(zip(self.agents[::2], self.agents[1::2], strict=True))


def _identity(name: str) -> str:
    return "ed25519:" + base64.b64encode(hashlib.blake2s(f"identity {name}".encode()).digest()).decode()


def paths(lab: Lab) -> dict[tuple[str, str], str]:
    """The path of each ordered pair of agents, by the status of the first."""
    return {
        (name, peer["name"]): peer["path"]
        for name, status in statuses_of(lab.network.members).items()
        for peer in status["peers"]
        if peer["name"] in lab.network.members
    }


def wait_until_folded(lab: Lab) -> None:
    """Until no agent has an open tunnel to another one."""
    every = len(lab.network.members) * (len(lab.network.members) - 1)

    def folded() -> bool:
        found = paths(lab)
        return len(found) == every and set(found.values()) == {"idle"}

    wait_for("all pairs are folded up", folded, every_s=1.0)


def ping(lab: Lab, one: str, other: str, *options: str, network: str = NETWORK) -> float:
    """Milliseconds to the first answer; the first packet opens the pair if it is folded up. No packet is lost."""
    argv = ["ping", "-n", "-c", "1", "-W", str(int(BUSY_S)), *options, host_name(other, network)]
    said = lab.node(one).attempt(argv, timeout_s=2 * BUSY_S)
    found = re.search(r"time=([\d.]+) ms", said.stdout)
    assert " 0% packet loss" in said.stdout, f"{one} to {other}: {said.stdout}{said.stderr}"
    assert found is not None
    return float(found.group(1))


@dataclass(frozen=True)
class Record:
    """What an agent has recorded: this path was there so many milliseconds after the pair's first packet."""

    path: str
    ms: float


def records(lab: Lab, one: str, other: str) -> list[Record]:
    """Of the agent that sent the first packets, in the order of time."""
    pattern = rf"\b{other}: (\S+) .*, (\d+) ms after the first packet"
    return [Record(path, float(ms)) for path, ms in re.findall(pattern, lab.log(one, 10_000))]
