"""Store of commit-confirm: the record for the roll-back of an armed apply, on disk from before the first change until
the confirmation.

Two files in the state directory: the record of the armed apply, and the digests of documents that were rolled
back. The holder of the host's lock writes them: the agent, or a command if no agent runs.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netctl.agent.storage.locations import Locations
from netctl.config.load.build import digest
from netctl.engine.checkpoint import from_plain, to_plain
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.node.commit import PendingCommit, Terms
from netctl.system import statefiles
from netctl.system.clock import boottime
from netctl.system.ourselves import own_command

MIN_CONFIRM_S = 1.0
"""The shortest typable time; the rollback watchdog takes about as long to start."""
MAX_CONFIRM_S = 86_400.0
"""A day: an apply without confirmation by then is forgotten."""
MAX_REFUSED = 32
"""Count of remembered rolled-back documents; each is one line of status."""
START_TIMEOUT_S = 30.0
"""The rollback watchdog imports all its code before it reports ready: seconds on a slow board."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Watchdog = Callable[[Locations, "StoredCommit"], None]
"""Starts the rollback watchdog of a commit. Raises LocalError if it does not start."""


def terms_of(request: Mapping[str, Any]) -> Terms:
    """The terms of a request to apply. Raises LocalError."""
    confirm_s = request.get("confirm_s")
    if confirm_s is not None and not isinstance(confirm_s, int | float):
        raise LocalError("confirm_s is a number of seconds, or null")
    return Terms(
        confirm_s=within(float(confirm_s)) if confirm_s is not None else None,
        ssh_connection=str(request.get("ssh_connection", "")),
        force=bool(request.get("force")),
        unattended=bool(request.get("unattended")),
    )


@dataclass(frozen=True, slots=True)
class StoredCommit(PendingCommit):
    """A pending commit, with its remaining time by this host's clock."""

    @property
    def left_s(self) -> float:
        """Seconds until the roll-back; 0 or less: due. A record of another boot is due."""
        return self.remaining_s(boottime(), boot_id())

    def plain(self) -> dict[str, Any]:
        """The commit for `netctl status -o json`."""
        return {"digest": self.digest, "rolls_back_in_s": round(max(self.left_s, 0.0), 1)}


def boot_id() -> str:
    """The kernel's id of the present boot."""
    return BOOT_ID.read_text().strip()


def within(confirm_s: float) -> float:
    """The time for confirmation, checked against MIN_CONFIRM_S and MAX_CONFIRM_S. Raises LocalError."""
    if not MIN_CONFIRM_S <= confirm_s <= MAX_CONFIRM_S:
        raise LocalError(
            f"an apply can wait between {MIN_CONFIRM_S:.0f} s and {MAX_CONFIRM_S / 3600:.0f} h for its confirmation"
        )
    return confirm_s


class CommitStore:
    """The files of commit-confirm."""

    def __init__(self, locations: Locations) -> None:
        self.locations = locations
        self.lost: str | None = None
        """Which damage of the record was found and survived; None: no damage."""

    def arm(
        self,
        confirm_s: float,
        text: str,
        before: str | None,
        checkpoint: HostState,
        engine: str,
        terms: Terms,
    ) -> StoredCommit:
        """Write the record, durably before the return. Raises LocalError."""
        record = StoredCommit(
            nonce=secrets.token_hex(8),
            boot_id=boot_id(),
            deadline_s=boottime() + within(confirm_s),
            digest=digest(text),
            before=before,
            checkpoint=checkpoint,
            engine=engine,
            unattended=terms.unattended,
            joined=self._joined(),
        )
        try:
            self._write(record)
        except OSError as error:
            raise LocalError(
                f"cannot keep the way back in {self.locations.armed}: {error.strerror}; nothing was changed"
            ) from error
        return record

    def finish(self, record: PendingCommit) -> None:
        """Record that all changes are made and the apply waits for confirmation. Raises LocalError."""
        try:
            self._write(replace(record, finished=True))
        except OSError as error:
            raise LocalError(
                f"applied, but it cannot be confirmed ({self.locations.armed}: {error.strerror}): this host goes back"
            ) from error

    def _write(self, record: PendingCommit) -> None:
        plain = {
            "nonce": record.nonce,
            "boot_id": record.boot_id,
            "deadline_s": record.deadline_s,
            "digest": record.digest,
            "before": record.before,
            "checkpoint": to_plain(record.checkpoint),
            "engine": record.engine,
            "unattended": record.unattended,
            "finished": record.finished,
            "joined": record.joined,
        }
        statefiles.write(self.locations.armed, json.dumps(plain))

    def record(self) -> StoredCommit | None:
        """The armed apply, or None. Raises LocalError if the record is damaged."""
        try:
            found = statefiles.read(self.locations.armed)
            if found.content is None and found.lost is None:
                self.lost = None
                return None
            plain = json.loads(found.content or b"")
            record = StoredCommit(
                nonce=str(plain["nonce"]),
                boot_id=str(plain["boot_id"]),
                deadline_s=float(plain["deadline_s"]),
                digest=str(plain["digest"]),
                before=None if plain["before"] is None else str(plain["before"]),
                checkpoint=from_plain(plain["checkpoint"]),
                engine=str(plain["engine"]),
                unattended=bool(plain["unattended"]),
                finished=bool(plain["finished"]),
                joined=None if plain["joined"] is None else str(plain["joined"]),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise LocalError(
                f"{self.locations.armed} cannot be used ({type(error).__name__}): there is no way back by itself; "
                "look at the host, then remove that file"
            ) from error
        self.lost = found.lost
        return record

    def disarm(self) -> None:
        """Remove the record, durably. Raises OSError."""
        statefiles.remove(self.locations.armed)

    def put_back(self, record: PendingCommit) -> None:
        """Make the earlier document the accepted one again, with its invite. Raises OSError."""
        if record.before is not None:
            statefiles.write(self.locations.accepted, record.before)
        else:
            statefiles.remove(self.locations.accepted)
        if record.joined is not None:
            statefiles.write(self.locations.joined, record.joined)

    def _joined(self) -> str | None:
        try:
            return statefiles.read(self.locations.joined).text
        except (OSError, UnicodeDecodeError):
            return None

    def over(self, record: PendingCommit) -> None:
        """After a roll-back: refuse the failed document from now on, and remove the record. Raises OSError."""
        if record.before is None or digest(record.before) != record.digest:
            self.refuse(record.digest)
        self.disarm()

    # -- documents that were rolled back -------------------------------------------------------------------------

    def refused(self) -> tuple[str, ...]:
        """Digests of refused documents, oldest first."""
        try:
            plain = json.loads(statefiles.read(self.locations.refused).content or b"[]")
            return tuple(str(entry) for entry in plain)[-MAX_REFUSED:]
        except (OSError, ValueError, TypeError, RecursionError):
            return ()

    def refuse(self, name: str) -> None:
        """Refuse a document, unless an apply is forced. `name`: its digest. Raises OSError."""
        kept = [entry for entry in self.refused() if entry != name]
        statefiles.write(self.locations.refused, json.dumps([*kept, name][-MAX_REFUSED:]))

    def admit_again(self, name: str) -> None:
        """No longer refuse a document. `name`: its digest. Raises OSError."""
        statefiles.write(
            self.locations.refused, json.dumps([entry for entry in self.refused() if entry != name])
        )


def start_watchdog(locations: Locations, record: StoredCommit) -> None:
    """Start `netctl _confirmd` in a session of its own; returns when it waits. Raises LocalError."""
    command = own_command(*locations.options(), "_confirmd", record.nonce)
    environment = {**os.environ, "NETCTL_HOSTS": str(locations.hosts)}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            env=environment,
            check=False,
        )
        said = done.stderr.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalError(f"cannot start the process that takes this host back: {error}") from error
    if done.returncode:
        reason = said[-1].removeprefix("error: ") if said else f"exit status {done.returncode}"
        raise LocalError(f"cannot start the process that takes this host back: {reason}")
