"""Commit-confirm: the way back from an apply, on disk before the first change, until somebody confirms it.

Two files in the state directory: the record of the armed apply, and the digests of documents that were rolled
back. Whoever holds the host's lock writes them: the agent, or a command where no agent runs.
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
"""Less cannot be typed, and the process that waits takes about as long to start."""
MAX_CONFIRM_S = 86_400.0
"""A day: who has not looked by then has forgotten it."""
MAX_REFUSED = 32
"""So many rolled-back documents are remembered; each is one line of status."""
START_TIMEOUT_S = 30.0
"""The waiting process imports all that it will need before it says that it is ready: seconds on a slow board."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Watchdog = Callable[[Locations, "StoredCommit"], None]
"""Starts the process that takes the host back at the deadline. Raises LocalError when it does not start."""


def terms_of(request: Mapping[str, Any]) -> Terms:
    """From a request to apply. Raises LocalError."""
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
    """A pending commit of this host, held against this host's clock."""

    @property
    def left_s(self) -> float:
        """Seconds until the roll-back; 0 or less: now. A record of another boot is over."""
        return self.remaining_s(boottime(), boot_id())

    def plain(self) -> dict[str, Any]:
        """For `netctl status -o json`."""
        return {"digest": self.digest, "rolls_back_in_s": round(max(self.left_s, 0.0), 1)}


def boot_id() -> str:
    """Which boot this is."""
    return BOOT_ID.read_text().strip()


def within(confirm_s: float) -> float:
    """Held against the bounds. Raises LocalError."""
    if not MIN_CONFIRM_S <= confirm_s <= MAX_CONFIRM_S:
        raise LocalError(
            f"an apply can wait between {MIN_CONFIRM_S:.0f} s and {MAX_CONFIRM_S / 3600:.0f} h for its confirmation"
        )
    return confirm_s


class CommitStore:
    """The two files."""

    def __init__(self, locations: Locations) -> None:
        self.locations = locations
        self.lost: str | None = None
        """What of the record was found damaged and is done without, or None."""

    def arm(
        self,
        confirm_s: float,
        text: str,
        before: str | None,
        checkpoint: HostState,
        engine: str,
        terms: Terms,
    ) -> StoredCommit:
        """Write the record; it is on the disk when this returns. Raises LocalError."""
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
        """The apply has come to its end and waits for its confirmation. Raises LocalError."""
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
        """The armed apply, or None. Raises LocalError when the record is damaged."""
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
        """Nothing is armed any more; also after a power cut."""
        statefiles.remove(self.locations.armed)

    def put_back(self, record: PendingCommit) -> None:
        """The document of before is the accepted one again. Raises OSError."""
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
        """The roll-back is done: refuse the document that was tried, and forget the record. Raises OSError."""
        if record.before is None or digest(record.before) != record.digest:
            self.refuse(record.digest)
        self.disarm()

    # -- documents that were rolled back -------------------------------------------------------------------------

    def refused(self) -> tuple[str, ...]:
        """Digests, the oldest first."""
        try:
            plain = json.loads(statefiles.read(self.locations.refused).content or b"[]")
            return tuple(str(entry) for entry in plain)[-MAX_REFUSED:]
        except (OSError, ValueError, TypeError, RecursionError):
            return ()

    def refuse(self, name: str) -> None:
        """A document is not applied again unless forced. Raises OSError."""
        kept = [entry for entry in self.refused() if entry != name]
        statefiles.write(self.locations.refused, json.dumps([*kept, name][-MAX_REFUSED:]))

    def admit_again(self, name: str) -> None:
        """A document that was rolled back is refused no more. Raises OSError."""
        statefiles.write(
            self.locations.refused, json.dumps([entry for entry in self.refused() if entry != name])
        )


def start_watchdog(locations: Locations, record: StoredCommit) -> None:
    """Start `netctl _confirmd`; returns when it waits, in a session of its own. Raises LocalError."""
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
