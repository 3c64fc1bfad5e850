"""Plans that are kept: `netctl plan --out F`, `netctl apply F`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from netctl.model.errors import LocalError
from netctl.system.files import write_atomic
from netctl.wire.agentrequests import BindingState

FORMAT = "netctl/plan-file/v1"
AGAIN = "make it anew with `netctl plan --out`"


@dataclass(frozen=True, slots=True)
class KeptPlan:
    """A document and what its plan is bound to."""

    text: str
    file: str
    binding: BindingState


def save(path: Path, text: str, file: Path, plan: object) -> None:
    """Keep a plan for `netctl apply`. Readable by its owner alone, as the document may be. Raises LocalError."""
    kept = {"format": FORMAT, "file": str(file), "text": text, "plan": plan}
    try:
        write_atomic(path, json.dumps(kept, indent=1) + "\n")
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error


def read(text: str, path: Path) -> KeptPlan | None:
    """The plan that a file holds; None when it is no plan but a document.

    Raises LocalError when it was changed by hand, or when the document that it was made from is another one by
    now: the plan in hand is then not what the file beside it says.
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
        return found  # gone, or not readable here: the plan has all that it needs
    if now != found.text:
        raise LocalError(
            f"this plan is stale: {found.file} has changed since; nothing was changed. {AGAIN.capitalize()}"
        )
    return found
