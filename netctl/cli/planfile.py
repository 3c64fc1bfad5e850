"""Saved plans: `netctl plan --out F` writes one, `netctl apply F` applies it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from netctl.model.errors import LocalError
from netctl.system.files import write_atomic
from netctl.wire.agentrequests import BindingState

FORMAT = "netctl/plan-file/v1"
"""The format that a plan file names; one of another format is refused."""
AGAIN = "make it anew with `netctl plan --out`"


@dataclass(frozen=True, slots=True)
class KeptPlan:
    """The document of a saved plan, and the state of the host that the plan is bound to."""

    text: str
    file: str
    binding: BindingState


def save(path: Path, text: str, file: Path, plan: object) -> None:
    """Save a plan for `netctl apply`, readable by its owner only, as the document may be private. Raises LocalError."""
    kept = {"format": FORMAT, "file": str(file), "text": text, "plan": plan}
    try:
        write_atomic(path, json.dumps(kept, indent=1) + "\n")
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def read(text: str, path: Path) -> KeptPlan | None:
    """The plan in a file; None if the file is a document.

    Raises LocalError if the plan is damaged or was edited by hand, or if the document that it was made from has
    changed since: the plan is then stale.
    """
    if not text.lstrip().startswith("{") or FORMAT not in text[:100]:
        return None
    from netctl.config.load.build import digest

    try:
        kept = json.loads(text)
        binding = msgspec.convert(kept["plan"]["binding"], BindingState)
        found = KeptPlan(kept["text"], kept["file"], binding)
        same = digest(found.text) == binding.document
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise LocalError(f"{path} is a damaged plan: {AGAIN}") from None
    if not same:
        raise LocalError(f"{path}: the document in this plan was changed by hand: {AGAIN}")
    try:
        now = Path(found.file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return found  # the file is gone or not readable: the plan has its own copy
    if now != found.text:
        raise LocalError(
            f"this plan is stale: {found.file} has changed since; nothing was changed. {AGAIN.capitalize()}"
        )
    return found
