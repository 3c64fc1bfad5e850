"""Where a document came from, in a file beside it: `netctl sync --write` says it, the mediator's audit log repeats it.

It names the text that it is about by its digest, so one that is about another text says nothing. Nothing is decided by
it: whoever may write the document may write this too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

MAX_BYTES = 4096
"""Of such a file."""
MAX_URL = 500
"""Characters: longer ones are cut, they are for people."""


class Origin(msgspec.Struct, frozen=True):
    """A commit. `digest`: SHA-256 of the document's text, hexadecimal; `repository`: a URL without a password."""

    digest: str
    commit: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40,64}\Z")]
    repository: Annotated[str, msgspec.Meta(max_length=MAX_URL)]


def origin_path(document: Path) -> Path:
    """Of the file beside a document."""
    return document.with_name(document.name + ".origin")


def origin_text(origin: Origin) -> str:
    """What to write."""
    return msgspec.json.encode(origin).decode() + "\n"


def origin_of(digest: str, raw: bytes) -> Origin | None:
    """What the file says of the document with this digest, if anything."""
    try:
        found = msgspec.json.decode(raw, type=Origin)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.digest == digest else None
