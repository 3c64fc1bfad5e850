"""UPnP Internet Gateway Devices: search (SSDP), description, and the SOAP calls of WANIPConnection.

UPnP Device Architecture 1.1 (UDA) and WANIPConnection:1/2. A router sends XML over HTTP. XML with a DTD (and so with
entities of its own) is refused, as is XML beyond the limits of size, depth and number of elements. URLs in it are
followed only when they are on the router itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from urllib.parse import urlsplit
from xml.parsers import expat

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire.http import MAX_RESPONSE

SSDP_PORT = 1900
SSDP_GROUP = SocketAddress("239.255.255.250", SSDP_PORT)
SEARCH_TARGETS = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (1, 2))
MAX_ANSWER = 1500
"""Bytes of an answer to a search: one datagram on an Ethernet."""
MAX_DEPTH = 32
"""Nested elements: a description nests four devices, a SOAP answer four elements."""
MAX_ELEMENTS = 3000
MAX_PATH = 1024
"""Characters of a URL's path."""

NO_SUCH_ENTRY, CONFLICT, PERMANENT_ONLY = 714, 718, 725
"""Error codes of WANIPConnection (§2.5)."""
_SERVICES = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)


@dataclass(slots=True)
class Element:
    """An XML element by its local name, without attributes."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def every(self, name: str) -> list[Element]:
        """All elements of this name in this tree, in document order."""
        found = []
        waiting = [self]
        while waiting:
            one = waiting.pop()
            if one.name == name:
                found.append(one)
            waiting += reversed(one.children)
        return found

    def value(self, name: str) -> str:
        """The text of the first element of this name in this tree; "" without one."""
        found = self.every(name)
        return found[0].text.strip() if found else ""


@dataclass(frozen=True, slots=True)
class Control:
    """Port and path of the SOAP calls on the gateway, and the service's full name."""

    port: int
    path: str
    service: str


@dataclass(frozen=True, slots=True)
class SoapAnswer:
    """The result of a call: `error` 0 and its values, or an error code (or HTTP status) and the router's message."""

    values: dict[str, str]
    error: int = 0
    words: str = ""


def search(target: str) -> bytes:
    """The bytes of an M-SEARCH (UDA 1.1 §1.3.2)."""
    lines = (
        "M-SEARCH * HTTP/1.1",
        "HOST: 239.255.255.250:1900",
        'MAN: "ssdp:discover"',
        "MX: 1",
        f"ST: {target}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def location(data: bytes, gateway: IPv4Address) -> tuple[int, str]:
    """Port and path of the description, from an answer to a search. Raises RemoteError.

    A description anywhere but on the gateway itself is refused: no answer can make us fetch from another host.
    """
    if len(data) > MAX_ANSWER:
        raise RemoteError("too long for an answer to a search", "upnp.length")
    first, _, rest = data.decode("latin-1").partition("\r\n")
    if not first.startswith("HTTP/1.") or first.split(" ")[1:2] != ["200"]:
        raise RemoteError("not an answer to a search", "upnp.search")
    headers: dict[str, str] = {}
    for line in rest.split("\r\n"):
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    if "InternetGatewayDevice:" not in headers.get("st", ""):
        raise RemoteError("not a gateway", "upnp.search")
    return local_url(headers.get("location", ""), gateway)


def local_url(url: str, gateway: IPv4Address) -> tuple[int, str]:
    """Port and path of an HTTP URL on the gateway. Raises RemoteError for any other URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port if parts.port is not None else 80
    except ValueError:
        raise RemoteError("not a URL", "upnp.url") from None
    if parts.scheme != "http" or host != str(gateway) or not port or parts.username is not None:
        raise RemoteError("a URL that is not on the gateway", "upnp.elsewhere")
    return port, _clean(parts.path + (f"?{parts.query}" if parts.query else ""))


def _clean(path: str) -> str:
    if len(path) > MAX_PATH or not path.isascii() or not path.isprintable() or " " in path:
        raise RemoteError("not a path", "upnp.url")
    return path if path.startswith("/") else f"/{path}"


def read_xml(data: bytes) -> Element:
    """An unnamed element around the root of a document. Raises RemoteError for broken or large XML, or with a DTD."""
    if len(data) > MAX_RESPONSE:
        raise RemoteError("too much XML", "upnp.xml")
    root = Element("")
    open_elements = [root]
    count = 0

    def start(name: str, _: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS or len(open_elements) > MAX_DEPTH:
            raise RemoteError("too much XML", "upnp.xml")
        element = Element(name.rpartition(":")[2])
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_: str) -> None:
        open_elements.pop()

    def characters(text: str) -> None:
        open_elements[-1].text += text

    def doctype(*_: object) -> None:
        raise RemoteError("XML with a DTD", "upnp.xml")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):
        raise RemoteError("broken XML", "upnp.xml") from None
    return root


def control(description: bytes, gateway: IPv4Address, port: int, path: str) -> Control:
    """The port-mapping service of a device description fetched from `port` and `path`. Raises RemoteError."""
    root = read_xml(description)
    base = root.value("URLBase") or f"http://{gateway}:{port}{path}"
    found = {service.value("serviceType"): service for service in reversed(root.every("service"))}
    for wanted in _SERVICES:
        if wanted in found:
            where = found[wanted].value("controlURL")
            if "://" not in where:
                at, base_path = local_url(base, gateway)
                where = where if where.startswith("/") else base_path.rpartition("/")[0] + "/" + where
                return Control(at, _clean(where), wanted)
            return Control(*local_url(where, gateway), wanted)
    raise RemoteError("a gateway without port mapping", "upnp.service")


def call(service: str, action: str, arguments: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The body of a SOAP call (UDA 1.1 §3.1.1). The order of the arguments matters to some routers."""
    from xml.sax.saxutils import escape  # a megabyte with all that it imports; few hosts have such a router

    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments)
    return (
        '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service}">{inner}</u:{action}></s:Body></s:Envelope>\r\n'
    ).encode()


def add_mapping(service: str, external: int, internal: int, client: IPv4Address, lifetime_s: int) -> bytes:
    """The body of AddPortMapping for UDP; lifetime 0 is for ever."""
    arguments = (
        ("NewRemoteHost", ""),
        ("NewExternalPort", str(external)),
        ("NewProtocol", "UDP"),
        ("NewInternalPort", str(internal)),
        ("NewInternalClient", str(client)),
        ("NewEnabled", "1"),
        ("NewPortMappingDescription", "netctl"),
        ("NewLeaseDuration", str(lifetime_s)),
    )
    return call(service, "AddPortMapping", arguments)


def delete_mapping(service: str, external: int) -> bytes:
    """The body of DeletePortMapping for UDP."""
    arguments = (("NewRemoteHost", ""), ("NewExternalPort", str(external)), ("NewProtocol", "UDP"))
    return call(service, "DeletePortMapping", arguments)


def soap_answer(status: int, body: bytes) -> SoapAnswer:
    """The result of a call, from HTTP status and body. Raises RemoteError for a body that is no XML."""
    if status not in (200, 500):
        return SoapAnswer({}, status, f"HTTP status {status}")
    root = read_xml(body)
    if status == 500:
        code = root.value("errorCode")
        number = int(code) if code.isascii() and code.isdigit() and len(code) <= 5 else 500
        return SoapAnswer({}, number or 500, root.value("errorDescription")[:80])
    values: dict[str, str] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        waiting += one.children
        if not one.children:
            values[one.name] = one.text.strip()
    return SoapAnswer(values)
