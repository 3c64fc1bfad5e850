"""The comment on a pull request: who gains and who loses reach by a branch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from netctl.config.load.loader import MAX_BYTES
from netctl.config.reach.reachchanges import ReachChanges
from netctl.config.reach.reachtext import reach_lines
from netctl.fleet.git import Git, GitError
from netctl.model.errors import Finding, LocalError

MAX_MARKDOWN = 60_000
"""A comment on GitHub holds 65,536 characters."""
SIGNS = {"+": "gained", "-": "lost", "~": "changed"}


def text_at(path: Path, revision: str) -> tuple[str | None, str]:
    """The document's text at a revision (None: not in it), and the commit. Raises LocalError."""
    directory = path.resolve().parent
    git = Git(directory)
    try:
        root = git.root()
    except GitError:
        raise LocalError(f"{path} is in no Git repository, so there is nothing to compare with") from None
    try:
        commit = git.commit(revision)
    except GitError:
        hint = "fetch it first, or name another"
        raise LocalError(f"there is no revision '{revision}' in {root}: {hint}") from None
    inside = path.resolve().relative_to(root.resolve()).as_posix()
    if not git.ok("cat-file", "-e", f"{commit.id}:{inside}"):
        return None, commit.short
    try:
        return git.file(commit.id, inside, MAX_BYTES).decode(), commit.short
    except UnicodeDecodeError as error:
        raise LocalError(f"{inside} at {commit.short} is not UTF-8 (byte {error.start})") from None


def to_markdown(name: str, commit: str, changes: ReachChanges, warnings: Sequence[Finding]) -> str:
    """The comment for a pull request, as Markdown, cut after MAX_MARKDOWN characters."""
    lines = [f"### `{_plain(name)}` against `{commit}`", ""]
    said = reach_lines(changes)
    if not said:
        lines.append("Nothing changes for anybody: no address, no member, no reach.")
    else:
        counts = {word: sum(line[:1] == sign for line in said) for sign, word in SIGNS.items()}
        lines.append(", ".join(f"**{count} {word}**" for word, count in counts.items() if count))
        lines += ["", "```diff", *(_diff(line) for line in said), "```"]
    if warnings:
        lines += ["", "Warnings:", ""]
        lines += [f"- `{_plain(str(warning.path))}`: {_plain(warning.message)}" for warning in warnings]
    text = "\n".join(lines)
    if len(text) > MAX_MARKDOWN:
        text = (
            text[:MAX_MARKDOWN].rsplit("\n", 1)[0] + "\n```\n\n… and more; `netctl plan --against` shows all."
        )
    return text


def _diff(line: str) -> str:
    """A line of a diff block: GitHub colours ``!`` as changed."""
    return ("!" + line[1:] if line[:1] == "~" else line).replace("```", "'''")


def _plain(text: str) -> str:
    return text.replace("`", "'").replace("<", "&lt;")
