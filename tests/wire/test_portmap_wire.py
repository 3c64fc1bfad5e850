"""PCP, NAT-PMP and UPnP as bytes: the RFCs' layouts, hostile answers, and no byte string that breaks a decoder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire import http, natpmp, pcp, upnp

ROUTER = IPv4Address("192.168.1.1")
OWN = IPv4Address("192.168.1.10")
NONCE = bytes(range(12))
IGD = upnp.SEARCH_TARGETS[0]
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><URLBase>{{base}}</URLBase><device>
<deviceList><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3</controlURL></service>
<service><serviceType>{SERVICE}</serviceType><controlURL>{{control}}</controlURL></service>
</serviceList></device></deviceList></device></root>"""


def pcp_answer(*, result: int = 0, lifetime: int = 1200, port: int = 51820, version: int = 2) -> bytes:
    mapped = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 7])
    head = (
        bytes([version, 0x81, 0, result]) + lifetime.to_bytes(4, "big") + (99).to_bytes(4, "big") + bytes(12)
    )
    return head + NONCE + b"\x11\0\0\0" + (51820).to_bytes(2, "big") + port.to_bytes(2, "big") + mapped


def test_a_pcp_request_is_laid_out_as_in_the_rfc() -> None:
    data = pcp.map_request(OWN, NONCE, 51820, SocketAddress("203.0.113.7", 4000), 1200)
    assert len(data) == 60
    assert data[:24] == bytes.fromhex("02010000000004b0") + bytes(10) + b"\xff\xff\xc0\xa8\x01\x0a"
    assert data[24:] == NONCE + bytes.fromhex("11000000ca6c0fa0") + bytes(10) + b"\xff\xff\xcb\x00\x71\x07"
    removal = pcp.map_request(OWN, NONCE, 51820, SocketAddress("203.0.113.7", 4000), 0)
    assert removal[4:8] == bytes(4)
    assert removal[42:44] == bytes(2)


def test_pcp_answers() -> None:
    assert pcp.decode(pcp_answer()) == pcp.MapAnswer(
        0, 99, 1200, NONCE, 51820, SocketAddress("203.0.113.7", 51820)
    )
    assert pcp.decode(pcp_answer(result=2)).result == 2  # type: ignore[union-attr]
    assert pcp.decode(pcp_answer(result=1)[:24]) == pcp.MapAnswer(1, 99, 1200)
    announcement = bytes([2, 0x80, 0, 0]) + bytes(4) + (7).to_bytes(4, "big") + bytes(12)
    assert pcp.decode(announcement) == pcp.Announcement(7)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pcp_answer(version=0),
        pcp_answer()[:24],
        pcp_answer()[:-1],
        pcp_answer() + bytes(1100),
        pcp.map_request(OWN, NONCE, 1, None, 9),
        pcp_answer()[:36] + b"\x06" + pcp_answer()[37:],
    ],
    ids=["empty", "version", "no-body", "odd", "long", "our-own-request", "tcp"],
)
def test_what_is_no_pcp_answer(data: bytes) -> None:
    with pytest.raises(RemoteError):
        pcp.decode(data)


def test_a_grant_of_port_0_is_read_for_what_it_is() -> None:
    """Some routers send it: it is no mapping, and no silence either."""
    answer = pcp.decode(pcp_answer(port=0))
    assert isinstance(answer, pcp.MapAnswer)
    assert answer.external is None
    assert answer.lifetime_s
    mapped = bytes.fromhex("0081000000000063ca6c0000000004b0")
    assert natpmp.decode(mapped) == natpmp.Mapped(99, 51820, 0, 1200)


def test_natpmp_is_laid_out_as_in_the_rfc() -> None:
    assert natpmp.address_request() == b"\0\0"
    assert natpmp.map_request(51820, 4000, 1200) == bytes.fromhex("00010000ca6c0fa0000004b0")
    assert natpmp.map_request(51820, 4000, 0) == bytes.fromhex("00010000ca6c000000000000")
    address = bytes.fromhex("0080000000000063cb007107")
    assert natpmp.decode(address) == natpmp.ExternalAddress(99, IPv4Address("203.0.113.7"))
    mapped = bytes.fromhex("0081000000000063ca6c0fa0000004b0")
    assert natpmp.decode(mapped) == natpmp.Mapped(99, 51820, 4000, 1200)
    assert natpmp.decode(bytes.fromhex("0081000200000063")) == natpmp.Refusal(2)
    for broken in (b"", b"\0\1\0\0", mapped[:12], mapped + bytes(60)):
        with pytest.raises(RemoteError):
            natpmp.decode(broken)


def found(location: str, st_header: str = IGD, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nST: {st_header}\r\nLocation: {location}\r\nUSN: uuid:x\r\n\r\n".encode()


def test_a_search_answer_that_points_to_the_router() -> None:
    assert upnp.location(found("http://192.168.1.1:5000/rootDesc.xml"), ROUTER) == (5000, "/rootDesc.xml")
    assert upnp.location(found("http://192.168.1.1"), ROUTER) == (80, "/")
    assert upnp.location(found("http://192.168.1.1:1/a?b=c"), ROUTER) == (1, "/a?b=c")


@pytest.mark.parametrize(
    "data",
    [
        found("http://192.168.1.2:5000/x"),
        found("http://198.51.100.9/x"),
        found("http://router.example/x"),
        found("https://192.168.1.1/x"),
        found("file:///etc/passwd"),
        found("http://192.168.1.1:99999/"),
        found("http://192.168.1.1:0/"),
        found("http://me@192.168.1.1/"),
        found("http://192.168.1.1/a b"),
        found("http://192.168.1.1/" + "a" * 1100),
        found("http://[::1"),
        found("http://192.168.1.1/x", "upnp:rootdevice"),
        found("http://192.168.1.1/x", status="404 Not Found"),
        found("http://192.168.1.1/x") + bytes(1500),
        b"NOTIFY * HTTP/1.1\r\n\r\n",
    ],
)
def test_a_search_answer_that_points_elsewhere_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteError):
        upnp.location(data, ROUTER)


@pytest.mark.parametrize(
    ("base", "control", "expected"),
    [
        ("", "/ctl/IPConn", (5000, "/ctl/IPConn")),
        ("", "ctl", (5000, "/dir/ctl")),
        ("http://192.168.1.1:80/", "/ctl", (80, "/ctl")),
        ("http://192.168.1.1:80", "ctl", (80, "/ctl")),
        ("", "http://192.168.1.1:6000/ctl", (6000, "/ctl")),
    ],
)
def test_the_control_address_of_a_description(base: str, control: str, expected: tuple[int, str]) -> None:
    text = DESCRIPTION.format(base=base, control=control).encode()
    assert upnp.control(text, ROUTER, 5000, "/dir/root.xml") == upnp.Control(*expected, SERVICE)


@pytest.mark.parametrize(
    "text",
    [
        DESCRIPTION.format(base="http://203.0.113.9/", control="/ctl"),
        DESCRIPTION.format(base="", control="http://203.0.113.9/ctl"),
        "<root><service><serviceType>other</serviceType></service></root>",
        "<root>",
        "",
        '<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><root>&b;</root>',
        '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><root>&x;</root>',
        '<!DOCTYPE r SYSTEM "http://203.0.113.9/x.dtd"><root/>',
        "<a>" * 40 + "</a>" * 40,
        "<r>" + "<a/>" * 4000 + "</r>",
        "<r>" + "x" * 70_000 + "</r>",
        '<?xml version="1.0" encoding="no-such"?><r/>',
    ],
    ids=[
        "base",
        "control",
        "none",
        "cut",
        "empty",
        "laughs",
        "entity",
        "dtd",
        "deep",
        "wide",
        "huge",
        "encoding",
    ],
)
def test_a_hostile_description_is_refused(text: str) -> None:
    with pytest.raises(RemoteError):
        upnp.control(text.encode(), ROUTER, 5000, "/")


def test_soap_both_ways() -> None:
    call = upnp.add_mapping(SERVICE, 4000, 51820, OWN, 1200)
    read = upnp.read_xml(call)
    assert read.value("NewExternalPort") == "4000"
    assert read.value("NewInternalClient") == "192.168.1.10"
    assert read.value("NewProtocol") == "UDP"
    assert upnp.read_xml(upnp.delete_mapping(SERVICE, 4000)).value("NewExternalPort") == "4000"
    answer = upnp.call(SERVICE, "GetExternalIPAddressResponse", (("NewExternalIPAddress", " 203.0.113.7 "),))
    assert upnp.soap_answer(200, answer).values["NewExternalIPAddress"] == "203.0.113.7"
    fault = b"<e><errorCode>718</errorCode><errorDescription>Conflict</errorDescription></e>"
    assert upnp.soap_answer(500, fault) == upnp.SoapAnswer({}, 718, "Conflict")
    assert upnp.soap_answer(500, b"<e/>").error == 500
    assert upnp.soap_answer(500, "<e><errorCode>²</errorCode></e>".encode()).error == 500
    assert upnp.soap_answer(404, b"").error == 404


def test_http_answers_whole_chunked_and_until_the_end() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd"
    assert http.response(plain, ended=False) == http.Response(200, b"abc")
    assert http.response(plain[:-2], ended=False) is None
    chunked = b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    assert http.response(chunked, ended=False) == http.Response(500, b"abcde")
    assert http.response(chunked[:-7], ended=False) is None
    closing = b"HTTP/1.0 200 OK\r\n\r\nabc"
    assert http.response(closing, ended=False) is None
    assert http.response(closing, ended=True) == http.Response(200, b"abc")
    asked = http.request("GET", "192.168.1.1:80", "/x")
    assert asked.startswith(b"GET /x HTTP/1.1\r\nHost: 192.168.1.1:80\r\nConnection: close\r\n")
    posted = http.request("POST", "192.168.1.1:80", "/x", b"abc", (("SOAPAction", '"a#b"'),))
    assert b'\r\nSOAPAction: "a#b"\r\n' in posted
    assert posted.endswith(b"\r\nContent-Length: 3\r\n\r\nabc")
    continued = b"HTTP/1.1 100 Continue\r\n\r\n" + plain
    assert http.response(continued, ended=False) == http.Response(200, b"abc")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", 200),
        (b"HTTP/1.0 200\r\nVia: x\r\n\r\n", 200),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 9\r\n\r\n", 407),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
    ],
)
def test_the_head_of_a_proxys_answer(answer: bytes, status: int) -> None:
    assert http.connect_head(answer).status == status


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"\0" * 9000, b"HTTP/1.1 100 Continue\r\n\r\n"],
)
def test_what_no_proxy_answers(answer: bytes) -> None:
    with pytest.raises(RemoteError):
        http.connect_head(answer)


def test_a_proxy_is_asked_for_host_and_port() -> None:
    asked = http.connect_request("[2001:db8::1]:443", (("Proxy-Authorization", "Basic eA=="),))
    assert asked == (
        b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\nProxy-Authorization: Basic eA==\r\n\r\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nabc",
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 2000\r\n\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000,
    ],
)
def test_broken_http_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteError):
        http.response(data, ended=True)


DECODERS: list[Callable[[bytes], object]] = [
    pcp.decode,
    natpmp.decode,
    upnp.read_xml,
    lambda data: upnp.location(data, ROUTER),
    lambda data: upnp.control(data, ROUTER, 80, "/"),
    lambda data: upnp.soap_answer(200, data),
    lambda data: upnp.soap_answer(500, data),
    lambda data: http.response(data, ended=True),
    lambda data: http.response(data, ended=False),
    http.connect_head,
    lambda data: http.Served().receive(data),
]
STARTS = st.sampled_from(
    [
        b"",
        b"\2\x81",
        b"\0\x80",
        pcp_answer(),
        found("http://192.168.1.1/"),
        b"<a><b>",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]
)


@given(STARTS, st.binary(max_size=200))
@example(found("http://192.168.1.1:²/"), b"")
def test_no_bytes_break_a_decoder(start: bytes, rest: bytes) -> None:
    for decode in DECODERS:
        with contextlib.suppress(RemoteError):
            decode(start + rest)
