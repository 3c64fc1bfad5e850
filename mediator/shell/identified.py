"""Find a server in the document by its identity."""

from __future__ import annotations

from pathlib import Path

from mediator.core.acceptance import accept
from mediator.shell.watched import cannot_read
from netctl.model.document import Document, Mediator
from netctl.model.keys import IdentityKey


def load_mediator(path: Path, identity: IdentityKey) -> tuple[Document, Mediator]:
    """Load a document, and find its mediator with this identity. Raises LocalError, ConfigError."""
    try:
        text = path.read_text()
    except OSError as error:
        raise cannot_read(path, error) from error
    return accept(text, str(path), identity)
