"""`netctl version`: the facts of a bug report, for people and as JSON, and that nothing missing keeps them back."""

from __future__ import annotations

import json
import platform
import socket
import threading
from pathlib import Path

import pytest

from netctl import __version__
from netctl.cli.facts import EngineFacts, Facts, KernelFacts, NoAgent, PythonFacts, Running, rows
from netctl.cli.main import main
from netctl.wg import native
from tests.support.patience import BUSY_S


def said(arguments: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--state", str(run / "state"), "--run", str(run), "version", *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_json_has_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(said(["-o", "json"], tmp_path, capsys))
    assert known["netctl"] == __version__
    assert known["agent"] == {"runs": False, "error": None}
    assert known["python"]["version"] == platform.python_version()
    assert known["kernel"]["release"] == platform.release()
    assert known["engine"]["data_path"] == native.describe()
    assert known["engine"]["auto"] in ("kernel", "netctl-wg")
    assert known["libraries"]["cryptography"]
    assert known["openssl"].startswith("OpenSSL ")


def test_people_get_the_same_in_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said([], tmp_path, capsys)
    for fact in (
        f"netctl     {__version__}\n",
        "agent      does not run on this host\n",
        f"netctl-wg  data path: {native.describe()}\n",
        f"{platform.python_version()} (CPython",
        platform.release(),
    ):
        assert fact in text, text


def test_an_agent_that_talks_nonsense_is_a_fact_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "agent.sock"))
        listening.settimeout(BUSY_S)
        listening.listen()

        def answer() -> None:
            with listening.accept()[0] as one:
                one.recv(100)
                one.sendall(b"hello?\n")

        thread = threading.Thread(target=answer)
        thread.start()
        text = said([], tmp_path, capsys)
        thread.join()
    assert "agent      does not answer: " in text, text


@pytest.mark.parametrize(
    ("agent", "shown"),
    [
        (Running("9.9.9", "kernel", None), "9.9.9, with kernel"),
        (Running("9.9.9", None, None), "9.9.9, with no engine yet"),
        (NoAgent("does not answer: late"), "does not answer: late"),
    ],
)
def test_the_agent_speaks_for_itself(agent: NoAgent | Running, shown: str) -> None:
    """After an upgrade it may run on with the code from before."""
    known = Facts(
        netctl="1.0.0",
        agent=agent,
        engine=EngineFacts(None, False, "Python (no compiler)"),
        python=PythonFacts("3.12.1", "CPython", "/usr/bin/python3"),
        kernel=KernelFacts("Linux", "6.1", "x86_64"),
        distribution="Debian",
        libraries={},
        openssl="OpenSSL 3",
        nft="not installed",
    )
    assert dict(rows(known))["agent"] == shown
