"""An agent of a host that joined by invite, and an excerpt that is no good."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address
from pathlib import Path

from netctl.agent.agent import Agent
from netctl.agent.host import Host
from netctl.agent.storage.keyfiles import Keys, make_keys
from netctl.agent.storage.statestore import StateStore
from netctl.engine import FakeEngine
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.node import events as on
from netctl.node.choices import Joined
from netctl.session import Kept
from netctl.wire.control import Sealed
from tests.agent.test_agent_life import locations
from tests.agent.test_commit import settled

GATEWAY = WireGuardKey(bytes([2]) * 32)
PIN = "ed25519:9m0vYlTVFpDkqcEuZ4hHLnWGoPdTBgGx0nPmJXW6K0c="


def excerpt(keys: Keys, routes: list[str], *, mediators: bool = True) -> str:
    return json.dumps(
        {
            "apiVersion": "netctl/v1",
            "mediators": [{"url": "netctl://127.0.0.1:1", "identity": [PIN]}] if mediators else [],
            "members": {
                "me": {"wireguard": str(keys.wireguard)},
                "gw": {"wireguard": str(GATEWAY), "routes": routes},
            },
            "networks": {
                "lan": {
                    "mode": "routed",
                    "ipv4": "10.50.0.0/24",
                    "ipv6": "none",
                    "members": ["me", "gw"],
                    **({} if mediators else {"addresses": {"me": "10.50.0.2", "gw": "10.50.0.3"}}),
                }
            },
        }
    )


def seen(keys: Keys, text: str) -> View:
    both = {"me": keys.wireguard, "gw": GATEWAY}
    members = {key: ViewMember(name, key, online=True) for name, key in both.items()}
    leases = {
        ("lan", key): Lease("lan", key, (ip_address(f"10.50.0.{number}"),))
        for number, key in enumerate(both.values(), 2)
    }
    return View(1, members, leases, text)


def test_an_excerpt_without_a_mediator_is_refused(tmp_path: Path) -> None:
    """Nobody could change it any more, and every key in it would be a peer without a view's word."""
    where = locations(tmp_path)
    keys, _ = make_keys(where)
    store = StateStore(where)
    store.set_joined(Joined("lan"))
    store.accept(excerpt(keys, []))

    async def life() -> None:
        agent = Agent(keys, store, Host(FakeEngine))
        before = agent.state.loaded
        newest = seen(keys, excerpt(keys, [], mediators=False))
        agent.runner.post(on.ViewReceived(newest, Kept(newest, Sealed(1, "", "", ""))))
        await settled(agent)
        assert agent.state.view is newest
        assert agent.state.loaded is before
        await agent.close()

    asyncio.run(life())
    assert store.holds(excerpt(keys, []))
