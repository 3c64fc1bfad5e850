"""What `netctl doctor` says about real boxes: mapping, filtering, and how ports are given out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netctl.lab.internet import DOCUMENT_PATH, LOG_PATH, STATE_PATH, Lab, program
from netctl.lab.topology import PUBLIC
from tests.netns.hardnats import pair_behind
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

SECOND = PUBLIC[20]
"""The mediator's second address."""


def doctor(lab: Lab, name: str) -> Any:
    return json.loads(lab.node(name).attempt([program("netctl"), "doctor", "-o", "json"]).stdout)


def learned(lab: Lab, name: str) -> tuple[str, str, str | None]:
    """Mapping, filtering, and the kind of allocation, once the last two are known."""

    def known() -> bool:
        found = doctor(lab, name)
        return found["nat"]["ipv4"]["filtering"] != "unknown" and found["allocation"] is not None

    wait_for(f"{name} knows its filter", known)
    found = doctor(lab, name)
    four = found["nat"]["ipv4"]
    said = [check["text"] for check in found["checks"] if check["check"] in ("filtering IPv4", "ports IPv4")]
    assert len(said) == 2, found["checks"]
    return four["mapping"], four["filtering"], found["allocation"]["kind"]


def with_second_address(lab: Lab) -> None:
    """The mediator again, with two addresses; and the agents, who ask once."""
    for name in lab.network.members:
        lab.stop(name)
    lab.stop("mediator")
    node = lab.node("mediator")
    node.run(["ip", "addr", "add", f"{SECOND}/{PUBLIC.prefixlen}", "dev", "eth0"])
    argv = [program("netctl-mediator"), "serve", "--document", DOCUMENT_PATH, "--state", STATE_PATH]
    refused = node.attempt([*argv, "--stun-also", "192.0.2.9"])
    assert "this host has no such IPv4 address" in refused.stderr
    lab.services["mediator"] = node.spawn([*argv, "--stun-also", str(SECOND)], LOG_PATH)
    for name in lab.network.members:
        lab.start_agent(name)


def test_kinds_of_boxes_with_one_address_and_with_two() -> None:
    with pair_behind("full-cone", "address-restricted") as lab:
        either = "endpoint-independent or address-dependent"
        assert learned(lab, "laptop")[:2] == ("endpoint-independent", either)
        assert learned(lab, "desktop")[:2] == ("endpoint-independent", either)
        with_second_address(lab)
        assert learned(lab, "laptop")[:2] == ("endpoint-independent", "endpoint-independent")
        assert learned(lab, "desktop")[:2] == ("endpoint-independent", "address-dependent")


def test_hard_kinds() -> None:
    with pair_behind("symmetric-sequential", "port-restricted") as lab:
        both = "address and port-dependent"
        assert learned(lab, "laptop") == (both, both, "sequential")
        assert learned(lab, "desktop") == ("endpoint-independent", both, "kept")
