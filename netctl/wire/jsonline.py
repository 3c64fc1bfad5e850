"""Requests at the local sockets of agent and mediator: one JSON object a line, with what is asked for as ``op``."""

from __future__ import annotations

import json
from typing import Any

from netctl.model.errors import LocalError


def parse_request(line: bytes) -> dict[str, Any]:
    """The request of a line. Raises LocalError for whatever is none.

    Text in it is Unicode throughout: half of a surrogate pair, which JSON can write, is refused here and not where a
    file or a store would.
    """
    try:
        request = json.loads(line)
        json.dumps(request, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise LocalError(f"not a request: {type(error).__name__}: {str(error)[:100]}") from error
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise LocalError('not a request: it is an object with a text as "op"')
    return request


def text_of(request: dict[str, Any], key: str, default: str | None = None) -> str:
    """A text of the request; `default` for a key that is not there or null. Raises LocalError."""
    value = request.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise LocalError(f"the request does not say '{key}' as text")
    return value
