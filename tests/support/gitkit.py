"""Git repositories on disk for tests, with SSH keys that sign."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.patience import BUSY_S

WHO = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.net", "-c", "init.defaultBranch=main")


class Repository:
    """A working tree in which tests commit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "gpg.format", "ssh")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.path), *WHO, *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=BUSY_S
        ).stdout.strip()

    def commit(
        self, text: str | None, subject: str, key: Path | None = None, file: str = "networks.yaml"
    ) -> str:
        """Write (or with None remove) a file and commit it, signed with `key`; the commit's id."""
        target = self.path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            target.unlink()
        else:
            target.write_text(text)
        self.git("add", "--all")
        signing = ["-c", f"user.signingkey={key}", "commit", "-S"] if key else ["commit", "--no-gpg-sign"]
        self.git(*signing, "--quiet", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")


def ssh_key(path: Path) -> Path:
    """An Ed25519 key without a passphrase."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "somebody@example.net", "-f", str(path)]
    subprocess.run(command, check=True, timeout=BUSY_S)
    return path


def allow(path: Path, *keys: Path) -> Path:
    """An allowed signers file (ssh-keygen(1), ALLOWED SIGNERS)."""
    path.write_text("".join(f"somebody@example.net {Path(f'{key}.pub').read_text()}" for key in keys))
    return path
