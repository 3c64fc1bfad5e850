"""Derives a member's name from a host name: one rule for `init`, `join` and `keys init`."""

from __future__ import annotations

import re
import unicodedata

from netctl.config.resolve.guests import NAME
from netctl.model.errors import LocalError

MAX_NAME = 63
"""Octets of a DNS label (RFC 1035 §2.3.4)."""
_WITHOUT_MARKS = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "ł": "l", "þ": "th", "ħ": "h", "ı": "i"}
)
"""Latin letters that Unicode does not decompose into simpler ones."""
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")


def label_of(host_name: str) -> str:
    """The member's name for a host name: a strict DNS label.

    Marks are dropped (büro: buro): the name stays readable in every language that has them. A name without Latin
    letters becomes its A-label (RFC 5890), since it would otherwise be empty. An empty name becomes `host`.
    """
    first = host_name.partition(".")[0].lower()
    latin = unicodedata.normalize("NFKD", first.translate(_WITHOUT_MARKS))
    plain = "".join(letter for letter in latin if not unicodedata.combining(letter))
    label = _NOT_IN_A_NAME.sub("-", plain).strip("-")[:MAX_NAME].strip("-")
    if label:
        return label
    try:
        encoded = "".join(letter for letter in first if letter.isalnum()).encode("idna").decode()
    except UnicodeError:  # too long, or letters that DNS does not have
        return "host"
    return encoded if NAME.match(encoded) else "host"


def checked_name(wanted: str) -> str:
    """A name that a person chose. Raises LocalError for one that no member can have."""
    if not NAME.match(wanted):
        raise LocalError(f"'{wanted}' is no host name: small letters, digits and inner hyphens, at most 63")
    return wanted
