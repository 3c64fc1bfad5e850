"""Who somebody is by the word of a reverse proxy with a login of its own. Pure.

The proxy passes the name of who has logged in as a header. It is believed from the proxy's own address alone; from any
other the header is nothing. On loopback every user of this machine has that address, which docs/ui.md says.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

MAX_USER = 128
"""Characters of a name: an address of e-mail has fewer."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
"""A header's name (RFC 9110 §5.6.2)."""
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
"""A path of unreserved characters (RFC 3986 §2.3): it stands in a cookie and in a Content Security Policy."""
MAX_ROOT_PATH = 128
"""Characters of it."""
OURS = frozenset(
    {"host", "origin", "cookie", "content-length", "content-type", "transfer-encoding", "connection"}
)
"""Headers that say something else already."""
PORTS = {"http": 80, "https": 443}


class ProxyRefusedError(Exception):
    """The proxy does not say who it is. The text says why, for a person."""


class ProxyLogin(msgspec.Struct, frozen=True):
    """`address`: as the overlay writes it; `header`: in lower case; `origin`: where browsers see the page.

    `root_path`: the path below which they see it there, which the proxy takes away: ``/netctl``, or empty.
    """

    address: str
    header: str
    origin: str
    operators: tuple[str, ...] = ()
    root_path: str = ""

    @property
    def host(self) -> str:
        """The name by which browsers reach the proxy."""
        return urlsplit(self.origin).hostname or ""

    @property
    def secure(self) -> bool:
        """Whether browsers reach it by TLS alone."""
        return self.origin.startswith("https:")

    def user(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Whom a request that came from the proxy's address is of; None: of somebody of this machine itself.

        Raises ProxyRefusedError.
        """
        said = [value for name, value in headers if name.decode("latin-1").lower() == self.header]
        if not said and ipaddress.ip_address(self.address).is_loopback:
            return None
        if len(said) != 1:
            raise ProxyRefusedError(f"the reverse proxy must say once who this is, by {self.header}")
        try:
            name = said[0].decode().strip()
        except UnicodeDecodeError:
            raise ProxyRefusedError("the name that the reverse proxy says is no UTF-8") from None
        if not name or len(name) > MAX_USER or not name.isprintable():
            raise ProxyRefusedError(f"the name that the reverse proxy says is none, by {self.header}")
        return name


def parse_public_url(text: str) -> tuple[str, str]:
    """Origin and path of ``https://example.org/netctl``. Raises ValueError.

    The origin as browsers write it in an Origin header (RFC 6454 §6.2), the path without a slash at its end.
    """
    parts = urlsplit(text.rstrip("/"))
    port = parts.port
    if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
        raise ValueError
    if parts.query or parts.fragment or not parts.netloc.isascii():
        raise ValueError
    if (
        len(parts.path) > MAX_ROOT_PATH
        or not _ROOT_PATH.fullmatch(parts.path)
        or {".", ".."} & {*parts.path.split("/")}
    ):
        raise ValueError
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    origin = f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, PORTS[parts.scheme]) else "")
    return origin, parts.path


def parse_header(text: str) -> str:
    """The name of a header, in lower case. Raises ValueError."""
    if not _TOKEN.fullmatch(text) or text.lower() in OURS:
        raise ValueError
    return text.lower()
