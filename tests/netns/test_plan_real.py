"""`netctl plan` and `apply` on a real host without an agent: kept plans, exit codes, and what people are told."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.netns.driftkit import Member
from tests.support.hosts import Host, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

NETCTL = str(Path(sys.executable).with_name("netctl"))
FILE = "/etc/netctl/networks.yaml"
DOCUMENT = """apiVersion: netctl/v1
members:
  nas: {wireguard: "%s", endpoints: ["192.0.2.1:51820"]}
  desktop: {wireguard: "%s", endpoints: ["192.0.2.2:51820"]}
  laptop: {wireguard: "%s", endpoints: ["192.0.2.3:51820"]}
networks:
  office:
    mode: routed
    ipv4: 10.8.0.0/24
    members: ["*"]
    addresses: {nas: 10.8.0.1, desktop: 10.8.0.2, laptop: 10.8.0.3}
    acls:
      - {name: ssh, src: [laptop], dst: [nas], proto: tcp, ports: [22]}
      - {name: db, src: [desktop], dst: [nas], proto: tcp, ports: [5432]}
"""


class Nas:
    """A host with a document, and `netctl` on it."""

    def __init__(self, host: Host, text: str) -> None:
        self.host, self.text = host, text
        self.write(text)

    def write(self, text: str) -> None:
        self.host.run("sh", "-c", f"cat > {FILE}", text=text)

    def netctl(self, *arguments: str, code: int = 0) -> str:
        inside = '"$@"; echo "exit $?"'
        output = self.host.run("sh", "-c", inside, "sh", NETCTL, *arguments)
        assert output.count("Traceback") == 0, output
        assert f"exit {code}\n" in output, output
        return output.replace(f"exit {code}\n", "")

    def plan(self, *arguments: str) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(self.netctl("plan", "-o", "json", *arguments))
        return plain


@pytest.fixture(scope="module")
def nas() -> Iterator[Nas]:
    host = Host("nas")
    try:
        keys = [X25519PrivateKey.generate() for _ in range(3)]
        public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys]
        private = base64.b64encode(keys[0].private_bytes_raw()).decode()
        host.run("sh", "-c", "umask 077; cat > /var/lib/netctl/wireguard.key", text=private)
        host.run(NETCTL, "keys", "init")
        yield Nas(host, DOCUMENT % tuple(public))
    finally:
        host.close()


def test_a_kept_plan_is_done_once_and_stale_then(nas: Nas) -> None:
    output = nas.netctl("plan", "--detailed-exitcode", "--out", "/run/p.plan", code=2)
    assert "+ link nctl0" in output
    assert "laptop can now reach nas in office: tcp/22" in output
    assert "applied: " in nas.netctl("apply", "/run/p.plan")
    assert "this plan is stale: the host has changed since" in nas.netctl("apply", "/run/p.plan", code=1)
    assert "no changes" in nas.netctl("plan", "--detailed-exitcode", code=0)


def test_a_plan_with_nothing_to_do_holds_until_somebody_changes_the_host(nas: Nas) -> None:
    nas.netctl("plan", "--out", "/run/p.plan")
    assert "nothing to change" in nas.netctl("apply", "/run/p.plan")
    nas.host.run("ip", "route", "del", "10.8.0.0/24")
    assert "the host has changed since" in nas.netctl("apply", "/run/p.plan", code=1)
    assert "10.8.0.0/24 dev" not in nas.host.run("ip", "route"), "a stale plan changes nothing"
    nas.netctl("apply")


def test_what_changes_for_people_and_for_this_session(nas: Nas) -> None:
    less = "\n".join(line for line in nas.text.splitlines() if "name: db" not in line)
    nas.write(less + "\n")
    output = nas.netctl("plan", "--ssh-connection", "10.8.0.2 40000 10.8.0.1 5432")
    assert "- desktop can no longer reach nas at all" in output
    assert "this drops the link that you are connected through: no rule lets 10.8.0.2" in output
    session = nas.plan("--ssh-connection", "10.8.0.3 40000 10.8.0.1 22")["session"]
    assert session == {"rides": True, "drops": None}
    assert nas.plan("--ssh-connection", "192.0.2.7 1 192.0.2.1 22")["session"]["rides"] is False
    nas.write(nas.text)


def test_the_json_is_what_the_schema_says(nas: Nas) -> None:
    schema = json.loads((Path(__file__).parents[2] / "schemas" / "plan.schema.json").read_text())
    nas.write(nas.text.replace("10.8.0.3}", "10.8.0.4}"))
    plain = nas.plan("--everyone")
    jsonschema.Draft202012Validator(schema).validate(plain)
    assert plain["people"]["lines"] == ["~ laptop in office moves from 10.8.0.3 to 10.8.0.4"]
    assert [row["kind"] for row in plain["changes"]] == ["SetFilter", "SetPeer", "SetNames"]
    nas.write(nas.text)


def test_a_document_that_changed_after_the_plan_is_said(nas: Nas) -> None:
    nas.netctl("plan", "--out", "/run/p.plan")
    nas.write(nas.text + "# more\n")
    assert f"{FILE} has changed since" in nas.netctl("apply", "/run/p.plan", code=1)
    nas.write(nas.text)


def test_an_agent_keeps_to_a_plan_too() -> None:
    schema = json.loads((Path(__file__).parents[2] / "schemas" / "plan.schema.json").read_text())
    one = Member()
    try:
        one.start_agent()
        said = one.host.run(
            "sh", "-c", '"$@" 2>/dev/null', "sh", NETCTL, "plan", "-o", "json", "--out", "/run/p"
        )
        jsonschema.Draft202012Validator(schema).validate(json.loads(said))
        assert "applied: " in one.netctl("apply", "/run/p")
        assert "this plan is stale: the host has changed since" in one.netctl("apply", "/run/p", code=1)
        one.netctl("plan", "--out", "/run/p")
        one.netctl("down", "party")
        assert "this plan is stale" in one.netctl("apply", "/run/p", code=1)
        one.netctl("plan", "--out", "/run/p")
        assert "nothing to change" in one.netctl("apply", "/run/p")
    finally:
        one.close()
