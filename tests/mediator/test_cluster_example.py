"""examples/cluster: its document is valid, and the role writes what its unit's addition says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from mediator.shell.main import command_line
from netctl.config import load_document
from netctl.config.edit.fmt import format_text

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/cluster"
ROLE = ROOT / "roles/netctl_mediator"


def variables(hosts: str = "mediators") -> dict[str, Any]:
    """What the example's playbook gives the role for these hosts."""
    (play,) = [one for one in yaml.safe_load((EXAMPLE / "play.yml").read_text()) if one["hosts"] == hosts]
    (role,) = play["roles"]
    return {name: value for name, value in role.items() if name != "role"}


def test_the_document_is_valid_and_all_mediators_have_the_same_relay_ports() -> None:
    text = (EXAMPLE / "networks.yaml").read_text()
    loaded = load_document(text, "networks.yaml")
    assert loaded.warnings == ()
    assert format_text(text) == text
    full = [one for one in loaded.document.mediators if not one.relay_only]
    assert len(full) == 3
    assert len({one.relay_ports for one in full}) == 1
    assert any(one.relay_only for one in loaded.document.mediators)


def test_the_role_knows_each_variable_of_the_playbook() -> None:
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())
    known = specs["argument_specs"]["main"]["options"].keys()
    assert variables().keys() <= known
    assert variables("relays").keys() <= known
    assert variables("relays")["netctl_mediator_role"] == "relay"


def test_the_role_writes_the_units_addition() -> None:
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False)
    environment.filters["bool"] = bool
    template = environment.from_string((ROLE / "templates/cluster.conf.j2").read_text())
    written = (EXAMPLE / "cluster.conf").read_text().partition("\n")[2]
    assert template.render(variables()) == written


def test_the_command_reads_what_the_addition_says(monkeypatch: Any) -> None:
    lines = [
        line.partition("=")[2].strip('"')
        for line in (EXAMPLE / "cluster.conf").read_text().splitlines()
        if line.startswith("Environment=")
    ]
    for line in lines:
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    asked = command_line().parse_args(["serve"])
    given = variables()
    assert (asked.store, asked.bus, asked.cluster) == (given["netctl_store"], given["netctl_bus"], True)
