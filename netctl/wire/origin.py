"""The file beside a document that names its commit: `netctl sync --write` writes it, the mediator's audit log cites it.

The file names the document's text by its digest, so a file about another text is ignored. No decision depends on it:
everybody who may write the document may write this file too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

MAX_BYTES = 4096
"""Most bytes of such a file."""
MAX_URL = 500
"""Characters of a URL; longer ones are cut, since only people read them."""


class Origin(msgspec.Struct, frozen=True):
    """The commit that a document came from.

    `digest`: SHA-256 of the document's text, hexadecimal; `repository`: a URL without a password.
    """

    digest: str
    commit: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40,64}\Z")]
    repository: Annotated[str, msgspec.Meta(max_length=MAX_URL)]


def origin_path(document: Path) -> Path:
    """The path of the file beside a document."""
    return document.with_name(document.name + ".origin")


def origin_text(origin: Origin) -> str:
    """The content of the file."""
    return msgspec.json.encode(origin).decode() + "\n"


def origin_of(digest: str, raw: bytes) -> Origin | None:
    """The origin in `raw`, the file's content; None: not about the document with this digest, or malformed."""
    try:
        found = msgspec.json.decode(raw, type=Origin)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.digest == digest else None
