"""The Git commands that a review and a sync need, with failures as one-line errors.

Never prompts, never runs hooks, never takes a value of other origin for an option.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from netctl.model.errors import LocalError

TIMEOUT_S = 120.0
"""Enough for a fetch over a slow line: a repository with one document is small."""
MAX_TOLD = 300
"""Characters of Git's output in an error; the first lines name the reason."""
SSH = "ssh -oBatchMode=yes -oConnectTimeout=20"
"""How Git calls ssh, unless the user's environment sets GIT_SSH_COMMAND."""
QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
    "GIT_SSH_COMMAND": SSH,
}
PROTOCOLS = "file:git:http:https:ssh"
"""Allowed transports. Excluded: `ext::`, which runs a command, and `NAME::`, which runs any git-remote-NAME."""
NO_HOOKS = tuple(
    word
    for option in ("core.hooksPath=/dev/null", "core.fsmonitor=false", "gc.auto=0", "log.showSignature=false")
    for word in ("-c", option)
)
"""Options that disable the programs a repository's own configuration could start; none of our commands needs them."""


def without_secret(url: str) -> tuple[str, dict[str, str]]:
    """A URL without the user and password of http(s), and environment variables that give them to Git instead.

    Git passes the URL to its helper program as an argument, which every user of the host can read.
    """
    scheme, separator, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    login, at, host = place.rpartition("@")
    if scheme.lower() not in ("http", "https") or not separator or not at:
        return url, {}
    user, _, password = login.partition(":")
    basic = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    count = int(os.environ.get("GIT_CONFIG_COUNT", "0"))
    said = {
        "GIT_CONFIG_COUNT": str(count + 1),
        f"GIT_CONFIG_KEY_{count}": f"http.{scheme}://{host}/.extraHeader",
        f"GIT_CONFIG_VALUE_{count}": f"Authorization: Basic {basic}",
    }
    return f"{scheme}://{host}{slash}{path}", said


class GitError(LocalError):
    """A Git command failed; the text is Git's own message."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit."""

    id: str
    """40 or 64 hex digits."""
    subject: str
    author: str = ""
    """Name and mail address in the commit; not verified."""

    @property
    def short(self) -> str:
        """The first 10 digits of the id."""
        return self.id[:10]


class Git:
    """One repository: a working tree, or a bare one that `netctl sync` keeps."""

    def __init__(self, directory: Path, secrets: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.secrets = dict(secrets or {})
        """Environment variables for Git that hold secrets: other users can read an argv, but not an environment."""

    def run(self, *arguments: str, timeout: float = TIMEOUT_S, more: Mapping[str, str] | None = None) -> str:
        """Run a Git command; returns its output. `more`: more environment variables. Raises GitError, LocalError."""
        if shutil.which("git") is None:
            raise LocalError("git is not installed on this host: install the package git")
        fixed = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_ALLOW_PROTOCOL": PROTOCOLS}
        environment = {**QUIET, **os.environ, **fixed, **self.secrets, **(more or {})}
        command = ["git", "-C", str(self.directory), *NO_HOOKS, *arguments]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise GitError(f"git {arguments[0]} has not ended within {timeout:.0f} s") from None
        except OSError as error:
            raise GitError(f"git cannot be run in {self.directory}: {error.strerror}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
            words = "; ".join(line.removeprefix("fatal: ").removeprefix("error: ") for line in said)
            raise GitError(f"git {arguments[0]}: {words[:MAX_TOLD]}")
        return done.stdout.decode(errors="surrogateescape")

    def ok(self, *arguments: str, more: Mapping[str, str] | None = None) -> bool:
        """Whether a Git command exits with status 0."""
        try:
            self.run(*arguments, more=more)
        except GitError:
            return False
        return True

    def root(self) -> Path:
        """The top directory of the working tree. Raises GitError."""
        return Path(self.run("rev-parse", "--show-toplevel").rstrip("\n"))

    def commit(self, revision: str) -> Commit:
        """The commit that a revision names. Raises GitError."""
        name = self.run("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
        identity = name.strip()
        author, _, subject = (
            self.run("log", "-1", "--format=%an <%ae>%x00%s", identity).strip().partition("\0")
        )
        return Commit(identity, subject, author)

    def file(self, revision: str, path: str, limit: int) -> bytes:
        """A file's content at a revision. Raises GitError if it does not exist or has more than `limit` bytes."""
        name = f"{revision}:{path}"
        if self.run("cat-file", "-t", name).strip() != "blob":
            raise GitError(f"{path} is a directory at {revision[:10]}")
        if int(self.run("cat-file", "-s", name)) > limit:
            raise GitError(f"{path} is larger than {limit // 2**20} MiB at {revision[:10]}")
        return self.run("cat-file", "blob", name).encode(errors="surrogateescape")

    def contains(self, ancestor: str, descendant: str) -> bool:
        """Whether the history of `descendant` contains `ancestor`."""
        return self.ok("merge-base", "--is-ancestor", ancestor, descendant)
