"""What all pages use: how to render a template, and what the reader of a request may see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import HTMLResponse

from netctl.config.load.pipeline import Loaded
from netctl.ui.pageaccess import Sight


class Page(Protocol):
    """Renders a template as a page."""

    def __call__(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Render `template` with `values`, beside the values that every page gets.

        `peers` (bool) and `only` (the name of a peer): what the page shows of peers (`netctl.ui.livefeed.Shown`).
        """


def seen_of(request: Request) -> Sight:
    """What the reader may see of this host."""
    seen: Sight = request.scope["state"]["sight"]
    return seen


def loaded_of(request: Request) -> Loaded | None:
    """The document, or the reader's part of it."""
    loaded: Loaded | None = request.scope["state"]["loaded"]
    return loaded


def utc(at_s: float) -> str:
    """A time (Unix seconds) as a browser reads it (RFC 3339); empty if it is out of the calendar's range."""
    try:
        return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return ""
