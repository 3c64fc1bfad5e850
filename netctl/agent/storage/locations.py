"""Paths of netctl's files on a host. Each place has a default, an environment variable and an option."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from netctl.model.errors import LocalError


@dataclass(frozen=True, slots=True)
class Locations:
    """Files and directories of one member; one machine can have several members."""

    config: Path = Path("/etc/netctl/networks.yaml")
    state: Path = Path("/var/lib/netctl")
    run: Path = Path("/run/netctl")
    hosts: Path = Path("/etc/hosts")

    @classmethod
    def find(cls, config: str | None = None, state: str | None = None, run: str | None = None) -> Locations:
        """Options first, then NETCTL_CONFIG, NETCTL_STATE, NETCTL_RUN, NETCTL_HOSTS, then the defaults."""
        default = cls()
        environment = os.environ.get
        return cls(
            config=Path(config or environment("NETCTL_CONFIG") or default.config),
            state=Path(state or environment("NETCTL_STATE") or default.state),
            run=Path(run or environment("NETCTL_RUN") or default.run),
            hosts=Path(environment("NETCTL_HOSTS") or default.hosts),
        )

    def options(self) -> tuple[str, ...]:
        """Options that pass these places to another netctl command, without the hosts file."""
        return "--config", str(self.config), "--state", str(self.state), "--run", str(self.run)

    @property
    def private_key(self) -> Path:
        """The WireGuard private key, as `wg genkey` writes it."""
        return self.state / "wireguard.key"

    @property
    def identity_key(self) -> Path:
        """The Ed25519 private key for the login, base64 of its 32 bytes."""
        return self.state / "identity.key"

    @staticmethod
    def next_of(path: Path) -> Path:
        """The path of the next key for the key at `path`."""
        return path.with_name(path.name + ".next")

    @property
    def accepted(self) -> Path:
        """The accepted document."""
        return self.state / "accepted.yaml"

    @property
    def compiled(self) -> Path:
        """The compiled form of the last document, quick to load."""
        return self.state / "compiled.json"

    @property
    def view(self) -> Path:
        """The last view with the mediator's signature."""
        return self.state / "view.json"

    @property
    def joined(self) -> Path:
        """Exists if this host joined by invite, so that its mediator's view decides."""
        return self.state / "joined.json"

    @property
    def leases(self) -> Path:
        """The addresses of members that this host has seen (leases)."""
        return self.state / "leases.json"

    @property
    def down(self) -> Path:
        """What the user has taken down with `netctl down`."""
        return self.state / "down.json"

    @property
    def armed(self) -> Path:
        """The record of an apply that waits for `netctl confirm`."""
        return self.state / "armed.json"

    @property
    def refused(self) -> Path:
        """Digests of documents that were rolled back."""
        return self.state / "refused.json"

    @property
    def confirmd_log(self) -> Path:
        """The log of the rollback watchdog."""
        return self.state / "confirmd.log"

    @property
    def timeline(self) -> Path:
        """The time line: events of the last day."""
        return self.state / "timeline.jsonl"

    @property
    def sync(self) -> Path:
        """The directory of `netctl sync`: copy of the repository, lock and state."""
        return self.state / "sync"

    @property
    def lock(self) -> Path:
        """The host's lock, held by the process that changes the host."""
        return self.state / "lock"

    @property
    def socket(self) -> Path:
        """The agent's control socket."""
        return self.run / "agent.sock"


def read_document(path: Path) -> str:
    """The text of a document. Raises LocalError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LocalError(f"there is no {path}; name another with --config") from None
    except PermissionError:
        raise LocalError(f"{path} may not be read by this user") from None
    except IsADirectoryError:
        raise LocalError(f"{path} is a directory; name the file") from None
    except UnicodeDecodeError as error:
        raise LocalError(f"{path} is not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}") from error
