"""What people meet when something is wrong: exit status and the one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from netctl import __version__
from netctl.cli.main import main


def test_version_imports_almost_nothing() -> None:
    code = (
        "import sys\nsys.argv = ['netctl', '--version']\nfrom netctl.cli.entry import main\nmain()\n"
        "print(sorted({'yaml','asyncio','msgspec','cryptography','jsonschema','argparse'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, imported = done.stdout.splitlines()
    assert (first, imported) == (f"netctl {__version__}", "[]")
    assert second.startswith(("netctl-wg's data path: native (OpenSSL ", "netctl-wg's data path: Python ("))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["validate"], "there is no "),
        (["status"], "no agent runs on this host: start it with `netctl up`"),
        (["down", "office"], "no agent runs on this host"),
        (["invite", "office", "--mediator-state", "/nonexistent"], "no mediator runs here"),
        (["members", "approve", "--mediator-state", "/nonexistent"], "say whom to approve"),
        (["join", "hello"], "this is no invite"),
        (["leave"], "this host has joined no network"),
        (["keys", "show"], "run `netctl keys init` on this host"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--config", str(tmp_path / "n.yaml"), "--state", str(tmp_path / "s"), "--run", str(tmp_path)]
    assert main([*place, *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_validate_points_at_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "n.yaml"
    file.write_text("apiVersion: netctl/v1\nmembers: {}\nnetworks: {lan: {mode: lam}}\n")
    assert main(["validate", str(file)]) == 1
    said = capsys.readouterr()
    assert f"{file}:3:" in said.err
    assert "^" in said.err


def test_unknown_command_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dance"])
    assert ended.value.code == 2
    assert "invalid choice: 'dance'" in capsys.readouterr().err


def test_the_help_is_as_it_was_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == (Path(__file__).parent / "help.txt").read_text()


@pytest.mark.parametrize("arguments", [["lab", "--help"], ["lab", "-h"], ["lab", "exec", "--help"]])
def test_the_lab_has_help_of_its_own(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: netctl lab ")
