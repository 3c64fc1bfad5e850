"""GitOps by pull: fetch the newest commit of a branch, check it, and have the host apply its document.

History, signature, document and the document's tests are checked before any change. If a check fails, the host
stays as it is, and the state holds the reason.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from netctl.config import load_document
from netctl.config.load.loader import MAX_BYTES
from netctl.fleet.git import Commit, Git, GitError, without_secret
from netctl.fleet.sshfamily import SshFamily
from netctl.fleet.syncstate import Outcome, StateFile, SyncState, Verdict
from netctl.model.errors import ConfigError, LocalError

TIP = "refs/netctl/tip"
"""The ref under which the fetched branch is kept."""
MAX_TAGS = 16
"""Most tags of one commit whose signatures are checked."""
ONLY_SSH = ("gpg.format=ssh", "gpg.program=/bin/false", "gpg.x509.program=/bin/false")
"""Disables PGP and X.509: Git would check such signatures against any keyring of the host, not the allowed signers."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to follow, and how strictly."""

    repository: str
    branch: str = "main"
    path: str = "networks.yaml"
    allowed_signers: Path | None = None
    """The allowed signers file: one of them must have signed the commit or a tag of it. None: no check."""
    allow_rewind: bool = False
    """Follow a history that was rewritten."""
    writes: Path | None = None
    """The file that a mediator watches; None: this host applies the document."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of giving a document to a target."""

    outcome: Outcome
    why: str = ""


class Target(Protocol):
    """The host or mediator that uses the document."""

    def holds(self, text: str) -> bool:
        """Whether the target uses this text already."""

    def take(self, text: str, commit: str, still_reachable: Callable[[], bool], *, again: bool) -> Taken:
        """Use the document of `commit`. A host rolls back if `still_reachable` (asks the repository) turns false.

        `again`: a person asked for it, so apply even a document that the host rolled back before.
        """


class Sync:
    """Follows one branch for one target."""

    def __init__(self, settings: Settings, directory: Path, target: Target, states: StateFile) -> None:
        self.settings = settings
        self._url, secrets = without_secret(settings.repository)
        self._git = Git(directory / "repository.git", secrets)
        self._family = SshFamily(self._url)
        self._target = target
        self._states = states
        self.state = self._mine(states.load())

    def _mine(self, state: SyncState) -> SyncState:
        settings = self.settings
        where = shown_url(settings.repository)
        writes = str(settings.writes) if settings.writes is not None else ""
        return replace(state, repository=where, branch=settings.branch, path=settings.path, writes=writes)

    def look(self, now_s: float, *, asked: bool = False) -> Verdict | None:
        """Run one round. Returns the verdict on the newest commit; None: the repository could not be read.

        `asked`: a person asked for the round, so a commit that was rolled back is tried again. Raises OSError if
        the state cannot be saved.
        """
        try:
            tip = self._fetch()
        except LocalError as error:
            self._keep(replace(self.state, problem=str(error), looked_at_s=now_s))
            return None
        state = replace(self.state, problem="", looked_at_s=now_s)
        signer = self._signer(tip)
        taken = self._judge(tip, asked, signer)
        verdict = Verdict(tip.id, tip.subject, taken.outcome, taken.why, now_s, tip.author, signer or "")
        self._keep(state.judged(verdict))
        return verdict

    def _keep(self, state: SyncState) -> None:
        self.state = state
        self._states.save(state)

    # -- the repository ---------------------------------------------------------------------------------------

    def _fetch(self) -> Commit:
        """Fetch the newest commit of the branch. Raises LocalError."""
        self._prepare()
        branch = self.settings.branch
        refs = (f"+refs/heads/{branch}:{TIP}", "+refs/tags/*:refs/tags/*")
        try:
            self._git.run("check-ref-format", "--branch", branch)
            fetch = ("fetch", "--quiet", "--no-tags", "--prune", "--", self._url, *refs)
            self._git.run(*fetch, more=self._family.environment())
        except GitError as error:
            self._family.failed()
            where = shown_url(self.settings.repository)
            said = str(error).replace(self._url, where)
            if "couldn't find remote ref" in said:
                raise LocalError(f"there is no branch '{branch}' in {where} any more, or yet") from None
            raise LocalError(f"the repository cannot be read: {said}") from None
        return self._git.commit(TIP)

    def _prepare(self) -> None:
        directory = self._git.directory
        if directory.is_dir() and self._git.ok("rev-parse", "--is-bare-repository"):
            return
        shutil.rmtree(directory, ignore_errors=True)  # only a copy: remove an incomplete one
        try:
            directory.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise LocalError(f"cannot make {directory}: {error.strerror}") from error
        self._git.run("init", "--quiet", "--bare")

    def reachable(self) -> bool:
        """Whether the repository answers now."""
        refs = f"refs/heads/{self.settings.branch}"
        return self._git.ok(
            "ls-remote", "--exit-code", "--", self._url, refs, more=self._family.environment()
        )

    # -- the verdict ------------------------------------------------------------------------------------------

    def _judge(self, tip: Commit, asked: bool, signer: str | None) -> Taken:
        last = self.state.history[0] if self.state.history else None
        if last is not None and last.commit == tip.id and last.outcome is Outcome.ROLLED_BACK and not asked:
            return Taken(last.outcome, last.why)
        why = self._rewound(tip) or self._unsigned(signer)
        if why:
            return Taken(Outcome.REFUSED, why)
        try:
            text = self._git.file(tip.id, self.settings.path, MAX_BYTES).decode()
            load_document(text, self.settings.path)
        except GitError as error:
            return Taken(Outcome.REFUSED, f"no document to read: {error}")
        except UnicodeDecodeError as error:
            return Taken(Outcome.REFUSED, f"{self.settings.path} is not UTF-8 (byte {error.start})")
        except ConfigError as error:
            more = len(error.findings) - 1
            return Taken(Outcome.REFUSED, f"{error.findings[0]}" + (f" and {more} more" if more else ""))
        if tip.id == self.state.last_good and self._target.holds(text):
            return Taken(Outcome.APPLIED)
        return self._target.take(text, tip.id, self.reachable, again=asked)

    def _rewound(self, tip: Commit) -> str:
        good = self.state.last_good
        if good is None or self.settings.allow_rewind or tip.id == good or self._git.contains(good, tip.id):
            return ""
        return (
            f"history was rewritten: {tip.short} does not build on {good[:10]}, which this host lives by "
            "(--allow-rewind follows it)"
        )

    def _unsigned(self, signer: str | None) -> str:
        """Why no allowed signer counts for the commit; empty: one has signed, or none is required."""
        signers = self.settings.allowed_signers
        if signers is None or signer is not None:
            return ""
        if not signers.is_file():
            return f"there is no allowed signers file {signers}, so no signature can be judged"
        return f"nobody in {signers} has signed it, nor a tag that names it"

    def _signer(self, tip: Commit) -> str | None:
        """The allowed signer of this commit, or the signed tag that names it; None: neither, or none is required."""
        signers = self.settings.allowed_signers
        if signers is None or not signers.is_file():
            return None
        options = [word for option in ONLY_SSH for word in ("-c", option)]
        options += ["-c", f"gpg.ssh.allowedSignersFile={signers}"]
        if self._git.ok(*options, "verify-commit", tip.id):
            trust, _, name = self._git.run(*options, "log", "-1", "--format=%G?%x00%GS", tip.id).partition(
                "\0"
            )
            if trust == "G":
                return name.strip()
        listed = self._git.run("for-each-ref", "--points-at", tip.id, "--format=%(refname)", "refs/tags")
        for tag in listed.split()[:MAX_TAGS]:
            verified = self._git.ok(*options, "verify-tag", tag)
            if verified and self._git.run("rev-parse", f"{tag}^{{commit}}").strip() == tip.id:
                return f"the tag {tag.removeprefix('refs/tags/')}"
        return None


def shown_url(url: str) -> str:
    """The URL without a part that may be a password."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = rest.partition("/")
    user, at, host = host.rpartition("@")
    kept = user.split(":")[0] + at if at and scheme == "ssh" else ""
    return f"{scheme}://{kept}{host}{slash}{path}"
