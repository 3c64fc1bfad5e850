"""`netctl support`: facts for a bug report, and no secret in them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.support.patience import BUSY_S

INVITE = "netctl1AQQxMjM0NTY3ODkwYWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo"
PLANTED = (
    INVITE,
    "hunter2",
    "correct-horse",
    "8NKOrbfZtu7V9mBlwXkfgcGFIdcuRpEDHRSY8dqDyGo=",
)


def run(state: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "netctl.cli.entry",
        "--state",
        str(state),
        "--run",
        str(state / "run"),
    ]
    command += ["--config", str(state / "networks.yaml"), *arguments]
    environment = {**os.environ, "NETCTL_HOSTS": str(state / "hosts")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=BUSY_S)


def host(tmp_path: Path) -> tuple[Path, tuple[str, str]]:
    """A host with keys, a document, and secrets that found their way into a log; and its private keys."""
    state = tmp_path / "state"
    state.mkdir()
    assert run(state, "keys", "init", cwd=tmp_path).returncode == 0
    keys = (state / "wireguard.key").read_text().strip(), (state / "identity.key").read_text().strip()
    (state / "networks.yaml").write_text("# the document\n")
    (state / "hosts").write_text("127.0.0.1 localhost\n")
    (state / "agent.log").write_text(
        f"joining with {INVITE}\nusing proxy http://me:hunter2@proxy.example.net:3128\n"
        f"key {keys[0]} and {keys[1]}\nprivate_key={PLANTED[3]}\npresharedkey = correct-horse\nall else stays\n"
    )
    return state, keys


def test_no_secret_is_in_the_bundle(tmp_path: Path) -> None:
    state, keys = host(tmp_path)
    made = run(state, "support", "--out", "bundle.tar.gz", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout == "bundle.tar.gz\n"
    bundle = tmp_path / "bundle.tar.gz"
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as archive:
        parts = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
    whole = b"\n".join(parts.values())
    for secret in (*PLANTED, *keys):
        assert secret.encode() not in whole, secret
    log = parts["netctl-support/log/agent.log"].decode()
    assert "all else stays" in log
    assert "http://(removed)@proxy.example.net:3128" in log
    assert b'"netctl"' in parts["netctl-support/version.json"]
    assert parts["netctl-support/document/file.yaml"] == b"# the document\n"
    assert b"no agent runs" in parts["netctl-support/agent/status.json"]
    assert "wireguard.key" in parts["netctl-support/state.txt"].decode()  # its name and mode, not its content


def test_the_document_can_stay_at_home(tmp_path: Path) -> None:
    state, _ = host(tmp_path)
    assert run(state, "support", "--no-document", "--out", "b.tar.gz", cwd=tmp_path).returncode == 0
    with tarfile.open(tmp_path / "b.tar.gz") as archive:
        assert not [name for name in archive.getnames() if "document" in name]


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    state, _ = host(tmp_path)
    (tmp_path / "mine").write_text("mine")
    refused = run(state, "support", "--out", "mine", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "error: mine cannot be written: File exists\n"
    assert (tmp_path / "mine").read_text() == "mine"


def test_every_shell_gets_a_script_that_it_can_read(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        made = run(tmp_path, "completion", shell, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        for word in ("status", "apply", "--confirm-within"):
            assert word in made.stdout.replace("\\", ""), (shell, word)


def test_bash_completes_a_command_and_its_options(tmp_path: Path) -> None:
    script = run(tmp_path, "completion", "bash", cwd=tmp_path).stdout
    (tmp_path / "netctl.bash").write_text(script)
    ask = (
        'source ./netctl.bash; COMP_WORDS=(netctl "$@"); COMP_CWORD=$#; '
        'f=$(complete -p netctl | sed -E "s/.*-F ([^ ]+).*/\\1/"); $f netctl "${@: -1}" ""; echo "${COMPREPLY[@]}"'
    )

    def completed(*words: str) -> list[str]:
        argv = ["bash", "-c", ask, "bash", *words]
        return subprocess.run(
            argv, cwd=tmp_path, capture_output=True, text=True, timeout=BUSY_S
        ).stdout.split()

    assert completed("stat") == ["status"]
    assert "--confirm-within" in completed("apply", "--co")
