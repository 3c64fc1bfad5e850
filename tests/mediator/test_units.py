"""The systemd units: they start what they say, and the two do not hang on each other."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from mediator.shell.main import command_line
from mediator.shell.options import DEFAULT_STATE
from mediator.shell.postgresplace import CREDENTIAL, PostgresPlace

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging" / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


STATES = {"netctl-mediator": DEFAULT_STATE, "netctl-relay": "/var/lib/netctl-relay"}
ROLES = {
    "netctl_member": {"netctl.service": "systemd/netctl.service"},
    "netctl_mediator": {
        "netctl-mediator.service": "systemd/netctl-mediator.service",
        "netctl-relay.service": "systemd/netctl-relay.service",
        "sysusers.conf": "sysusers/netctl-mediator.conf",
    },
}


@pytest.mark.parametrize("name", sorted(STATES))
def test_a_unit_starts_a_command_that_there_is_as_its_own_user(name: str) -> None:
    service = unit(f"{name}.service")["Service"]
    program, *argv = shlex.split(service["ExecStart"])
    assert program == "/usr/local/bin/netctl-mediator"
    arguments = command_line().parse_args(argv)
    assert str(arguments.state) == STATES[name] == f"/var/lib/{service['StateDirectory']}"
    assert service["User"] == name
    users = (ROOT / "packaging/sysusers/netctl-mediator.conf").read_text()
    assert f"u {name} " in users


def test_both_sides_mean_the_same_directory() -> None:
    mediator = shlex.split(unit("netctl-mediator.service")["Service"]["ExecStart"])[1:]
    assert str(command_line().parse_args(mediator).relay_state) == STATES["netctl-relay"]


@pytest.mark.parametrize("path", sorted(UNITS.glob("*.service")), ids=lambda path: path.stem)
def test_no_unit_is_given_up_for_good(path: Path) -> None:
    parser = unit(path.name)
    assert parser["Unit"]["StartLimitIntervalSec"] == "0"
    assert parser["Service"]["Restart"] == "always"
    assert int(parser["Service"]["RestartSteps"]) > 0
    assert parser["Service"]["RestartMaxDelaySec"] == "10s"


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_roles_have_the_units_of_the_packages(role: str) -> None:
    for name, source in ROLES[role].items():
        assert (ROOT / "roles" / role / "files" / name).resolve() == ROOT / "packaging" / source
    assert not list((ROOT / "roles" / role).glob("templates/*.service*"))


def test_the_mediator_runs_without_a_relay_and_neither_needs_the_other() -> None:
    mediator, relay = unit("netctl-mediator.service"), unit("netctl-relay.service")
    assert "--no-relay" in mediator["Service"]["ExecStart"].split()
    for parser in (mediator, relay):
        assert not {"Requires", "BindsTo", "PartOf"} & set(parser["Unit"])


def test_the_addition_that_the_documentation_gives_makes_the_service_stand_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (ROOT / "docs/scaling.md").read_text()
    (block,) = [part.partition("```")[0] for part in text.split("```ini\n")[1:]]
    lines = [line.strip().partition("=") for line in block.splitlines() if "=" in line]
    settings = [value.partition("=") for key, _, value in lines if key == "Environment"]
    for name, _, value in settings:
        monkeypatch.setenv(name, value)
    _, *argv = shlex.split(unit("netctl-mediator.service")["Service"]["ExecStart"])
    arguments = command_line().parse_args(argv)
    place = PostgresPlace.parse(arguments.store, None)
    assert (arguments.standby, place.name) == (
        True,
        "postgresql://db1.example.org,db2.example.org/netctl",
    )
    assert [value for key, _, value in lines if key == "LoadCredential"] == [
        f"{CREDENTIAL}:/etc/netctl/store-password"
    ]


def test_without_it_the_service_works_alone() -> None:
    _, *argv = shlex.split(unit("netctl-mediator.service")["Service"]["ExecStart"])
    arguments = command_line().parse_args(argv)
    assert (arguments.standby, arguments.store) == (False, "")
