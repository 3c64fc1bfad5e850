"""The systemd units: they start what they say, and the two do not hang on each other."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest

from mediator.shell.main import DEFAULT_STATE, main

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "packaging" / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser


@pytest.mark.parametrize("name", ["netctl-mediator.service", "netctl-relay.service"])
def test_a_unit_starts_a_command_that_there_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *argv = shlex.split(unit(name)["Service"]["ExecStart"])
    assert program == "/usr/local/bin/netctl-mediator"
    assert (
        argv[argv.index("--state") + 1]
        == DEFAULT_STATE
        == f"/var/lib/{unit(name)['Service']['StateDirectory']}"
    )
    argv[argv.index("--state") + 1] = str(tmp_path)
    argv[argv.index("--document") + 1] = str(ROOT / "examples" / "lan-party.yaml")
    assert main(argv) == 1  # understood; there is no identity here
    assert "netctl-mediator init" in capsys.readouterr().err


def test_the_mediator_runs_without_a_relay_and_neither_needs_the_other() -> None:
    mediator, relay = unit("netctl-mediator.service"), unit("netctl-relay.service")
    assert "--no-relay" in mediator["Service"]["ExecStart"].split()
    for parser in (mediator, relay):
        assert not {"Requires", "BindsTo", "PartOf"} & set(parser["Unit"])
