"""Reads from a header of a reverse proxy, which has a login of its own, who sends a request. Pure.

The header counts only in requests from the proxy's address. If that address is on loopback, every user of this machine
can send such requests; docs/ui.md warns of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

MAX_USER = 128
"""Characters of a user's name. E-mail addresses are shorter in practice."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
"""A header's name (RFC 9110 §5.6.2)."""
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
"""A path of unreserved characters (RFC 3986 §2.3), because it is written into a cookie and a Content Security
Policy."""
MAX_ROOT_PATH = 128
"""Characters of the path in the public URL."""
OURS = frozenset(
    {"host", "origin", "cookie", "content-length", "content-type", "transfer-encoding", "connection"}
)
"""Headers that have another meaning, and cannot carry the name of the user."""
PORTS = {"http": 80, "https": 443}
"""Ports that a URL of this scheme leaves out."""


class ProxyRefusedError(Exception):
    """The proxy does not say who sends the request. The text says why, for a person."""


class ProxyLogin(msgspec.Struct, frozen=True):
    """A trusted reverse proxy.

    `address`: where its requests come from; `header`: the name of the header with the user, in lower case; `origin`: of
    the URL at which browsers see the page; `operators`: users who may change things; `root_path`: the path of that URL,
    which the proxy removes: ``/netctl``, or empty.
    """

    address: str
    header: str
    origin: str
    operators: tuple[str, ...] = ()
    root_path: str = ""

    @property
    def host(self) -> str:
        """The host name at which browsers reach the proxy."""
        return urlsplit(self.origin).hostname or ""

    @property
    def secure(self) -> bool:
        """Whether browsers reach the proxy by TLS."""
        return self.origin.startswith("https:")

    def user(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The user who sends a request that came from the proxy's address.

        None: a request from loopback without the header, so from somebody on this machine. Raises ProxyRefusedError.
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
    """Split ``https://example.org/netctl`` into origin and path. Raises ValueError.

    The origin is as browsers write it into an Origin header (RFC 6454 §6.2); the path has no slash at its end.
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
    """The name of a header in lower case. Raises ValueError if it is no name, or the name of a header in
    `OURS`."""
    if not _TOKEN.fullmatch(text) or text.lower() in OURS:
        raise ValueError
    return text.lower()
