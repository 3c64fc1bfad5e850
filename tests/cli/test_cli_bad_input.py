"""Whatever is wrong: one clear `error:` line, exit 1, nothing on stdout, no traceback, nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netctl.agent.storage.keyfiles import make_keys
from netctl.agent.storage.locations import Locations
from netctl.cli.main import main

OTHER = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
NOBODY = 65534
DOCUMENT = """apiVersion: netctl/v1
mediators: []
members: {{here: {{wireguard: "{key}"}}}}
networks: {{office: {{mode: routed, ipv4: 10.1.2.0/24, members: ["*"], addresses: {{here: 10.1.2.3}}}}}}
"""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: another user cannot be taken on")


@pytest.fixture
def locations(tmp_path: Path) -> Locations:
    """A host with keys and nothing else."""
    where = Locations(tmp_path / "networks.yaml", tmp_path / "state", tmp_path / "run")
    make_keys(where)
    return where


def options(locations: Locations) -> list[str]:
    return ["--config", str(locations.config), "--state", str(locations.state), "--run", str(locations.run)]


def refused(said: tuple[str, str], *words: str) -> None:
    """One `error:` line with all these words, and not a word on stdout."""
    out, err = said
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert all(word in err for word in words), err
    assert "Traceback" not in err


def run(locations: Locations, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """One command that must fail, in this process."""
    assert main([*options(locations), *arguments]) == 1
    said = capsys.readouterr()
    return said.out, said.err


NOBODY_DOES = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--", sys.executable]


def as_nobody(locations: Locations, *arguments: str) -> tuple[str, str]:
    """One command that must fail, as a user without any power."""
    command = [*NOBODY_DOES, "-P", "-m", "netctl.cli.main", *options(locations), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("command", ["validate", "plan", "apply", "fmt"])
def test_no_file(command: str, locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    refused(run(locations, capsys, command), f"there is no {locations.config}", "--config")


@pytest.mark.parametrize("command", ["validate", "plan", "apply", "fmt"])
def test_a_directory(command: str, locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    refused(run(locations, capsys, command, str(locations.state)), "is a directory")


@pytest.mark.parametrize("command", ["validate", "plan", "apply", "fmt"])
def test_no_text(command: str, locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    locations.config.write_bytes(b"apiVersion: \xff\n")
    refused(run(locations, capsys, command), "is not UTF-8 (byte 12)")


def test_a_path_through_a_file(locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    locations.config.write_text("")
    refused(run(locations, capsys, "validate", str(locations.config / "networks.yaml")), "cannot be read")


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_broken_yaml_is_shown_with_its_place(
    command: str, locations: Locations, capsys: pytest.CaptureFixture[str]
) -> None:
    locations.config.write_text("apiVersion: netctl/v1\nmembers: [\n")
    out, err = run(locations, capsys, command)
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines[0].startswith(f"error: {locations.config}:")
    assert lines[-1] == f"error: {locations.config} is not valid; nothing was changed"
    assert "Traceback" not in err


@only_root
def test_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locations = Locations(tmp_path / "networks.yaml", tmp_path / "state", tmp_path / "run")
    locations.config.write_text(DOCUMENT.format(key=OTHER))
    refused(run(locations, capsys, "plan"), "wireguard.key", "netctl keys init")
    assert not locations.state.exists()


@only_root
def test_a_damaged_key(locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    locations.config.write_text(DOCUMENT.format(key=OTHER))
    locations.private_key.write_text("not a key\n")
    refused(run(locations, capsys, "apply"), str(locations.private_key), "damaged")


@only_root
def test_a_key_that_no_member_has(locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    locations.config.write_text(DOCUMENT.format(key=OTHER))
    refused(run(locations, capsys, "apply"), "no member of the document", "netctl keys")


@only_root
def test_mediators_need_an_agent(locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    pair, _ = make_keys(locations)
    mediator = f'[{{url: "netctl://m.example.net:1", identity: ["{pair.identity}"]}}]'
    text = DOCUMENT.format(key=f'{pair.wireguard}", identity: "{pair.identity}')
    locations.config.write_text(text.replace("mediators: []", f"mediators: {mediator}"))
    refused(run(locations, capsys, "apply"), "no agent runs on this host", "netctl up")


@only_root
def test_the_engine_is_missing(
    locations: Locations, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, _ = make_keys(locations)
    locations.config.write_text(DOCUMENT.format(key=pair.wireguard))
    monkeypatch.setenv("PATH", str(locations.run))
    refused(run(locations, capsys, "plan", "--engine", "wireguard-go"), "wireguard-go")


def test_an_agent_that_is_gone(locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["status"], ["down", "office"]):
        refused(run(locations, capsys, *arguments), "no agent runs on this host", "netctl up")


def test_no_such_key_to_explain(locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    refused(run(locations, capsys, "explain", "networks.office.moed"), "no key 'networks.office.moed'")


@only_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_no_permission(locations: Locations) -> None:
    probe = subprocess.run([*NOBODY_DOES, "-c", "import netctl"], capture_output=True, check=False, cwd="/")
    if probe.returncode != 0:
        pytest.skip("this Python is root's alone")
    for directory in (
        locations.config.parent,
        *locations.config.parent.parents[:3],
    ):  # pytest's own are private
        directory.chmod(directory.stat().st_mode | 0o011)
    pair, _ = make_keys(locations)
    locations.config.write_text(DOCUMENT.format(key=pair.wireguard))
    locations.config.chmod(0o644)
    refused(as_nobody(locations, "apply"), "needs root", "sudo")
    locations.config.chmod(0o600)
    refused(as_nobody(locations, "validate"), "may not be read")


def test_fmt_lays_out_once(locations: Locations, capsys: pytest.CaptureFixture[str]) -> None:
    locations.config.write_text("apiVersion: netctl/v1   # why\nmembers:\n     a: {}\n")
    refused(run(locations, capsys, "fmt", "--check"), "netctl fmt")
    assert main([*options(locations), "fmt"]) == 0
    assert locations.config.read_text() == "apiVersion: netctl/v1   # why\nmembers:\n  a: {}\n"
    assert main([*options(locations), "fmt", "--check"]) == 0


def test_explain_and_schema_are_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "networks.office.mode"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("networks.office.mode: ")
    assert main(["schema"]) == 0
    assert '"$schema"' in capsys.readouterr().out
