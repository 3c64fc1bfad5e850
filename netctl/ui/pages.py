"""What every page is made with: the one that makes it of a template, and what its reader may see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import HTMLResponse

from netctl.config.load.pipeline import Loaded
from netctl.ui.pageaccess import Sight


class Page(Protocol):
    """Makes a page of a template."""

    def __call__(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """With the values that the template wants beside those of every page."""


def seen_of(request: Request) -> Sight:
    """What its reader may see of this host."""
    seen: Sight = request.scope["state"]["sight"]
    return seen


def loaded_of(request: Request) -> Loaded | None:
    """The document, or the reader's part of it."""
    loaded: Loaded | None = request.scope["state"]["loaded"]
    return loaded


def utc(at_s: float) -> str:
    """A time as a browser reads it (RFC 3339); empty for one that no calendar has."""
    try:
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""
