"""`netctl init`, and how it fits to what `netctl-mediator init` prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from mediator.shell.main import main as mediator
from netctl.cli.main import main as netctl
from netctl.config import load_document


def run(tmp_path: Path, *arguments: str) -> int:
    places = ["--config", str(tmp_path / "etc/networks.yaml"), "--state", str(tmp_path / "state")]
    return netctl([*places, "--run", str(tmp_path / "run"), *arguments])


def test_the_mediators_line_makes_a_document_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mediator(["init", "--state", str(tmp_path / "m"), "--host", "vps.example.org"]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if "netctl init" in line]
    words = shlex.split(line)
    assert words[:3] == ["sudo", "netctl", "init"]
    assert run(tmp_path, *words[2:], "--network", "office", "--name", "desk") == 0
    said_by_us = capsys.readouterr()
    assert "scp" in said_by_us.out
    assert "root@vps.example.org" in said_by_us.out
    assert "sudo netctl up" in said_by_us.out
    text = (tmp_path / "etc/networks.yaml").read_text()
    document = load_document(text).document
    assert "\n".join(said.out.splitlines()[1:]) in text, "the lines as the mediator prints them"
    assert list(document.networks) == ["office"]
    assert run(tmp_path, "validate") == 0
    capsys.readouterr()
    assert run(tmp_path, "keys", "--name", "desk") == 0
    assert capsys.readouterr().out.strip() in text, "this host's own keys"


def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "etc/networks.yaml"
    assert run(tmp_path, "init") == 0
    before = file.read_text()
    assert run(tmp_path, "init", "--network", "other") == 1
    assert "is there already and stays as it is" in capsys.readouterr().err
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == ["networks.yaml"]
    dangling = tmp_path / "etc/link.yaml"
    dangling.symlink_to("nowhere")
    assert run(tmp_path, "init", str(dangling)) == 1
    assert dangling.is_symlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "My Home"], 'networks."My Home"'),
        (["--name", "UPPER"], "'UPPER' is no host name"),
        (["--mediator", "vps.example.org"], "URL#IDENTITY"),
        (["--mediator", "netctl://x?tls=many#ed25519:AAAA"], "are numbers"),
        (["--mediator", "https://x#ed25519:AAAA"], "mediators[0]"),
        (["--ipv4", "10.0.0.1/24"], "has host bits set"),
        (["--ipv4", "8.8.8.0/24"], "networks.home.ipv4"),
        (["--endpoint", "no-port"], "endpoints"),
    ],
)
def test_bad_words_are_told_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(tmp_path, "init", *arguments) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "etc/networks.yaml").exists()


def test_a_host_that_lives_by_a_document_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/accepted.yaml").write_text("whatever")
    assert run(tmp_path, "init") == 1
    assert "lives by a document already" in capsys.readouterr().err
