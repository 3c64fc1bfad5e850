"""`netctl sync`: follow a document in a Git repository."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import ask
from netctl.cli.options import add_output, seconds
from netctl.config.load.build import digest
from netctl.fleet.git import without_secret
from netctl.fleet.keeper import is_well, keep, one_round, only_keeper, poke
from netctl.fleet.sync import Settings, Sync, Taken, shown_url
from netctl.fleet.syncstate import Outcome, StateFile, to_json
from netctl.model.errors import LocalError
from netctl.system import logs
from netctl.system.files import write_atomic
from netctl.system.ourselves import own_command
from netctl.wire import agentrequests as r
from netctl.wire.origin import MAX_URL, Origin, origin_path, origin_text

REPOSITORY = "NETCTL_SYNC_REPOSITORY"
"""Environment variable for --repository: other users of the host cannot read it."""
PROOF_SHARE = 0.5
"""Share of `--confirm-within`: after it, a host that cannot reach repository or mediator rolls back at once."""
PROOF_EVERY_S = 1.0
"""Seconds between two tries to reach repository and mediator after an apply."""
APPLY_TIMEOUT_S = 180.0
ROLLED_BACK = 3
SHOWN = 10
"""Verdicts in `netctl sync status`; -o json prints all that are kept."""
MIN_INTERVAL_S, MAX_INTERVAL_S = 1.0, 86400.0


class MediatorTarget:
    """Writes the document to the file that the mediator watches, its origin beside it. The mediator validates it."""

    def __init__(self, file: Path, repository: str) -> None:
        """`repository`: a URL without a password."""
        self._file = file
        self._repository = repository[:MAX_URL]

    def holds(self, text: str) -> bool:
        """Whether the file has this text."""
        try:
            return self._file.read_text(encoding="utf-8") == text
        except (OSError, UnicodeDecodeError):
            return False

    def take(self, text: str, commit: str, still_reachable: Callable[[], bool], *, again: bool) -> Taken:
        """Write origin and document, each completely or not at all."""
        file = self._file.resolve()
        origin = origin_text(Origin(digest(text), commit, self._repository))
        try:
            # Origin first: the mediator reads it as soon as the document has changed.
            write_atomic(origin_path(file), origin, 0o644)
            write_atomic(file, text, 0o644)
        except OSError as error:
            return Taken(Outcome.FAILED, f"cannot write {self._file}: {error.strerror}")
        return Taken(Outcome.APPLIED)


class MemberTarget:
    """Applies the document on this host. Confirms it only if the host still reaches the repository and its mediator."""

    def __init__(self, locations: Locations, confirm_s: int) -> None:
        self._places = locations
        self._confirm_s = confirm_s
        self._candidate = locations.sync / "candidate.yaml"

    def holds(self, text: str) -> bool:
        """Whether both the accepted document and the configured file have this text."""
        try:
            accepted = self._places.accepted.read_text(encoding="utf-8")
            return accepted == text == self._places.config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False

    def take(self, text: str, commit: str, still_reachable: Callable[[], bool], *, again: bool) -> Taken:
        """Apply, check that repository and mediator are still reachable, then confirm or roll back."""
        had_mediator = self._mediator_answers()
        try:
            write_atomic(self._candidate, text)
        except OSError as error:
            return Taken(Outcome.FAILED, f"cannot write {self._candidate}: {error.strerror}")
        words = ["--yes", "--confirm-within", f"{self._confirm_s}s", *(["--force"] if again else [])]
        status, said = self._netctl("apply", *words, str(self._candidate))
        if status:
            return Taken(Outcome.ROLLED_BACK if status == ROLLED_BACK else Outcome.FAILED, said)
        lost = self._lost(still_reachable, had_mediator)
        if lost:
            _, said = self._netctl("rollback")
            return Taken(Outcome.ROLLED_BACK, f"with it {lost}" + (f"; {said}" if said else ""))
        status, said = self._netctl("confirm")
        if status:
            return Taken(Outcome.ROLLED_BACK, said or "it could not be confirmed in time")
        try:
            write_atomic(self._places.config.resolve(), text, 0o644)
        except OSError as error:
            output.warning(f"applied, but cannot write {self._places.config}: {error.strerror}")
        return Taken(Outcome.APPLIED)

    def _lost(self, still_reachable: Callable[[], bool], had_mediator: bool) -> str:
        """What the host no longer reaches; empty: it reaches the repository, and the mediator if it did before."""
        deadline = time.monotonic() + self._confirm_s * PROOF_SHARE
        while True:
            lost = "" if still_reachable() else "the repository is out of reach"
            if not lost and had_mediator and not self._mediator_answers():
                lost = "the mediator is out of reach"
            if not lost or time.monotonic() > deadline:
                return lost
            time.sleep(PROOF_EVERY_S)

    def _mediator_answers(self) -> bool:
        try:
            status = ask(self._places, r.Status(look=False)).reply
        except LocalError:
            return False
        return status.mediator.state == "connected"

    def _netctl(self, *words: str) -> tuple[int, str]:
        """Run a netctl command: (exit status, its last error line)."""
        try:
            done = subprocess.run(
                own_command(*self._places.options(), *words),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=APPLY_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 1, f"netctl {words[0]} has not ended within {APPLY_TIMEOUT_S:.0f} s"
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return done.returncode, errors[-1].removeprefix("error: ") if errors else ""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("action", nargs="?", choices=["run", "status", "now"], default="run")
    parser.add_argument("--repository", metavar="URL", help="any URL or path that `git fetch` takes")
    parser.add_argument("--branch", default="main", help="default: main")
    parser.add_argument("--path", default="networks.yaml", help="the document in it (default: networks.yaml)")
    parser.add_argument("--interval", type=float, default=60.0, metavar="SECONDS", help="default: 60")
    parser.add_argument(
        "--verify-signatures",
        metavar="FILE",
        help="follow only what one of these allowed signers (ssh-keygen(1)) has signed",
    )
    parser.add_argument("--allow-rewind", action="store_true", help="follow a history that was rewritten")
    parser.add_argument(
        "--write", metavar="FILE", help="on a mediator: write the document there, and apply nothing"
    )
    parser.add_argument(
        "--confirm-within",
        default="90s",
        metavar="TIME",
        help="an apply that has not shown its way out so soon is taken back (default: 90s)",
    )
    parser.add_argument(
        "--once", action="store_true", help="look once; exit 1 when the newest is not applied"
    )
    logs.add_options(parser)
    parser.add_argument("--now", action="store_true", help="make the sync that runs here look at once")
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Run `netctl sync run`, `status` or `now`."""
    action = "now" if arguments.now else arguments.action
    return {"run": _follow, "status": _status, "now": _now}[action](arguments, locations)


def _states(locations: Locations) -> StateFile:
    return StateFile(locations.sync / "state.json", write_atomic)


def _follow(arguments: argparse.Namespace, locations: Locations) -> int:
    repository = arguments.repository or os.environ.get(REPOSITORY)
    if repository is None:
        raise LocalError(f"name what to follow: --repository URL, or {REPOSITORY}=URL")
    if arguments.repository and without_secret(repository)[1]:
        output.warning(
            f"every user of this host can read the password in --repository: say it as {REPOSITORY}=URL"
        )
    if not MIN_INTERVAL_S <= arguments.interval <= MAX_INTERVAL_S:
        raise LocalError("--interval is a number of seconds, from 1 to 86400 (a day)")
    logs.set_up(arguments)
    log = logging.getLogger("netctl.sync").info
    settings = Settings(
        repository,
        arguments.branch,
        arguments.path,
        Path(arguments.verify_signatures).absolute() if arguments.verify_signatures else None,
        arguments.allow_rewind,
        Path(arguments.write).absolute() if arguments.write else None,
    )
    confirm_s = seconds(arguments.confirm_within)
    target = (
        MediatorTarget(Path(arguments.write), shown_url(repository))
        if arguments.write
        else MemberTarget(locations, confirm_s)
    )
    with only_keeper(locations.sync / "lock"):
        sync = Sync(settings, locations.sync, target, _states(locations))
        if arguments.once:
            one_round(sync, True, "", log)
            return 0 if is_well(sync.state) else 1
        keep(sync, arguments.interval, log)
    return 0


def _now(arguments: argparse.Namespace, locations: Locations) -> int:
    poke(locations.sync / "lock")
    output.note("netctl sync looks now; `netctl sync status` says what it finds")
    return 0


def _status(arguments: argparse.Namespace, locations: Locations) -> int:
    file = _states(locations)
    if not file.path.exists():
        raise LocalError(f"no netctl sync has run here: there is no {file.path}")
    state = file.load()
    if arguments.output == "json":
        output.json({"ok": is_well(state), **to_json(state)})
        return 0 if is_well(state) else 1
    now = time.time()
    output.line(f"following {state.branch} of {state.repository}, {state.path}")
    output.line(f"lives by {state.last_good or 'no commit yet'}")
    output.line(f"looked {output.age(now - state.looked_at_s)} ago")
    output.line()
    newest = state.history[0] if state.history else None
    if newest is not None and newest.author:
        signed = f", signed: {newest.signer}" if newest.signer else ""
        output.line(f"newest commit {newest.commit[:10]} by {newest.author}{signed}")
    rows = [
        (row.commit[:10], row.outcome, f"{output.age(now - row.at_s)} ago", row.subject, row.why)
        for row in state.history[:SHOWN]
    ]
    output.table("commits", ("commit", "outcome", "when", "subject", "why"), rows)
    if state.problem:
        output.warning(f"{state.problem}; this host goes on with what it has")
    return 0 if is_well(state) else 1
