"""`netctl why`: which line of the document decides, on a machine that is neither of the two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netctl.cli.main import main
from netctl.config.reach.rulelookup import parse_target
from netctl.model.errors import LocalError

OFFICE = Path(__file__).parents[2] / "examples" / "office.yaml"


def why(tmp_path: Path, *arguments: str) -> int:
    return main(
        ["--config", str(OFFICE), "--state", str(tmp_path), "--run", str(tmp_path), "why", *arguments]
    )


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(OFFICE.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("source", "target", "status", "place", "line"),
    [
        ("anna", "hub:22", 0, "networks.office.acls[2] (ssh)", "name: ssh"),
        ("bert", "files:tcp/8080", 0, "networks.office.acls[1] (files)", "name: files"),
        ("bert", "anna:icmp", 0, "networks.office.acls[0] (ping)", "name: ping"),
        ("bert", "hub:22", 2, "networks.office.acls (default deny)", "    acls:"),
        ("bert", "files:udp/445", 2, "networks.office.acls (default deny)", "    acls:"),
        ("anna", "files", 0, "networks.office.acls[0] (ping)", "name: ping"),
    ],
)
def test_the_line_that_decides(
    source: str,
    target: str,
    status: int,
    place: str,
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert why(tmp_path, source, target) == status
    said = capsys.readouterr()
    part = " in part" if ":" not in target else ""
    assert f"office: {f'allowed{part}' if status == 0 else 'denied'} by {place}" in said.out
    assert (f"to ask about a port: netctl why {source} {target}:22" in said.out) is bool(part)
    assert f"{OFFICE}:{line_of(line)}:" in said.out
    assert "the path is not known: no agent runs on this host" in said.err


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(tmp_path, "anna", "hub:22", "-o", "json") == 0
    said = json.loads(capsys.readouterr().out)
    flow, guests = said["flows"]
    assert not guests["allowed"]
    assert flow == {
        "network": "office",
        "allowed": True,
        "rule": "ssh",
        "partly": False,
        "path": "networks.office.acls[2]",
        "file": str(OFFICE),
        "line": line_of("name: ssh"),
    }


GATEWAY = """apiVersion: netctl/v1
mediators: []
members:
  a: {wireguard: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}
  gate: {wireguard: "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", routes: [192.168.7.0/24, "fd77::/64"]}
  deep: {wireguard: "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=", routes: [192.168.7.128/25]}
networks:
  office:
    mode: routed
    ipv4: 10.8.0.0/24
    members: ["*"]
    addresses: {a: 10.8.0.1, gate: 10.8.0.2, deep: 10.8.0.3}
    acls:
      - {name: web, src: [a], dst: ["192.168.7.0/24", "fd77::9/128"], proto: tcp, ports: [80]}
      - {name: ssh, src: [a], dst: [gate], proto: tcp, ports: [22]}
"""


@pytest.mark.parametrize(
    ("target", "status", "place", "gateway", "route"),
    [
        ("192.168.7.9:80", 0, "networks.office.acls[0]", "gate", "192.168.7.0/24"),
        ("192.168.7.200:tcp/80", 0, "networks.office.acls[0]", "deep", "192.168.7.128/25"),
        ("192.168.7.9:22", 2, "networks.office.acls", "gate", "192.168.7.0/24"),
        ("192.168.7.9:icmp", 2, "networks.office.acls", "gate", "192.168.7.0/24"),
        ("192.168.7.9", 0, "networks.office.acls[0]", "gate", "192.168.7.0/24"),
        ("[fd77::9]:80", 0, "networks.office.acls[0]", "gate", "fd77::/64"),
        ("fd77::9", 0, "networks.office.acls[0]", "gate", "fd77::/64"),
        ("[fd77::8]:80", 2, "networks.office.acls", "gate", "fd77::/64"),
        # A member's own address is the member.
        ("10.8.0.2:22", 0, "networks.office.acls[1]", None, None),
    ],
)
def test_an_address_behind_a_gateway(
    target: str,
    status: int,
    place: str,
    gateway: str | None,
    route: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text(GATEWAY)
    places = ["--config", str(file), "--state", str(tmp_path), "--run", str(tmp_path)]
    assert main([*places, "why", "a", target, "-o", "json"]) == status
    said = json.loads(capsys.readouterr().out)
    (flow,) = said["flows"]
    assert (flow["allowed"], flow["path"]) == (status == 0, place)
    assert (flow.get("gateway"), flow.get("route")) == (gateway, route)
    assert said["firewall"] is None, "no agent runs here"


def test_an_address_that_nobody_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert why(tmp_path, "anna", "198.51.100.7:80") == 1
    assert "no member of a routed network of anna has a route to 198.51.100.7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("anna", "nobody:22", "there is no member 'nobody'; there are: hub, files"),
        ("ana", "hub", "there is no member 'ana'; did you mean 'anna'?"),
        ("anna", "flies:22", "there is no member 'flies'; did you mean 'files'?"),
        ("anna:22", "hub", "the port belongs to the second member: netctl why anna hub:22"),
        ("anna", "anna", "a host reaches itself; name two members"),
        ("anna", "hub:http", "'hub:http' is no target: say nas, nas:22, nas:tcp/22, nas:udp/53 or nas:icmp"),
    ],
)
def test_bad_questions(
    source: str, target: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why(tmp_path, source, target) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"error: {said.err.removeprefix('error: ')}")
    assert says in said.err


@pytest.mark.parametrize("text", ["a:", "a:0", "a:65536", "a:tcp/x", "a:icmp/3", "a:sctp/1", "a:tcp/-1"])
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(LocalError, match="is no target"):
        parse_target(text)
