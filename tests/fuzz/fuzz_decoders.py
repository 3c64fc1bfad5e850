"""Fuzz every other decoder with atheris: ``python tests/fuzz/fuzz_decoders.py [corpus] [-max_total_time=60]``.

The first byte chooses the decoder. A finding is any exception but the one that each of them documents.
"""

import contextlib
import json
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import atheris

with atheris.instrument_imports(
    include=["netctl.wire", "netctl.wg", "netctl.config", "netctl.engine.wireguard"]
):
    import numpy as np

    from netctl.config import clear_of, load_document, resolve
    from netctl.config.load.loader import parse
    from netctl.config.load.semantic import in_private_space
    from netctl.config.resolve.consent import within_consent
    from netctl.engine.hosts import parse_block, replace_block
    from netctl.engine.wireguard.uapiclient import Answers
    from netctl.model.addresses import SocketAddress
    from netctl.model.errors import ConfigError, EngineError, RemoteError
    from netctl.model.foreign import Foreign, ForeignRoute
    from netctl.model.keys import WireGuardKey
    from netctl.model.view import Lease, View, ViewMember
    from netctl.wg import uapi
    from netctl.wg.coalesce import is_one_flow, runs
    from netctl.wg.segment import complete, shape
    from netctl.wire import clienthello, control, http, natpmp, pcp, relay, stun, upnp
    from netctl.wire.datagram import classify
    from netctl.wire.frame import FrameDecoder
    from netctl.wire.relayframe import FrameReader, frame

ME = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
GATEWAY = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
PIN = "ed25519:9m0vYlTVFpDkqcEuZ4hHLnWGoPdTBgGx0nPmJXW6K0c="
HOME = Foreign(
    tuple(ForeignRoute(ip_network(text), text) for text in ("192.168.1.0/24", "10.0.5.0/24", "fd12::/64")),
    resolvers=(ip_address("10.99.0.53"), ip_address("fd77::53")),
)
"""What the host of the excerpts has itself."""
ROUTER = IPv4Address("192.168.1.1")
SOURCE = SocketAddress("192.0.2.7", 7)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _stun(data: bytes) -> None:
    answer = stun.respond(data, SOURCE)
    assert answer is None or len(answer) <= len(data), "no amplifier"
    with contextlib.suppress(RemoteError):
        stun.decode(data)


def _frames(data: bytes) -> None:
    decoder = FrameDecoder(1000)
    with contextlib.suppress(RemoteError):
        for start in range(0, len(data), 7):
            for payload in decoder.feed(data[start : start + 7]):
                with contextlib.suppress(RemoteError):
                    control.decode_any(payload)
    assert len(decoder._buffer) <= 1100, "no growth"


def _relay_frames(data: bytes) -> None:
    reader = FrameReader(1000)
    with contextlib.suppress(RemoteError):
        for start in range(0, len(data), 7):
            for port, datagram in reader.feed(data[start : start + 7]):
                assert frame(port, datagram) in data
    assert len(reader._rest) <= 1100, "no growth"


def _client_hello(data: bytes) -> None:
    size = clienthello.needed(data[:5])
    assert size is None or size <= 5 + clienthello.MAX_RECORD
    clienthello.protocols(data)


def _control(data: bytes) -> None:
    with contextlib.suppress(RemoteError):
        control.decode_any(data)


def _relay(data: bytes) -> None:
    classify(data)
    with contextlib.suppress(RemoteError):
        relay.open_message(data, bytes(32))


def _router(data: bytes) -> None:
    for decode in (pcp.decode, natpmp.decode, upnp.read_xml):
        with contextlib.suppress(RemoteError):
            decode(data)
    with contextlib.suppress(RemoteError):
        upnp.location(data, ROUTER)
    with contextlib.suppress(RemoteError):
        upnp.control(data, ROUTER, 80, "/")
    with contextlib.suppress(RemoteError):
        upnp.soap_answer(500, data)
    with contextlib.suppress(RemoteError):
        http.response(data, ended=True)


def _loader(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse(_text(data), "fuzz.yaml")


def _uapi(data: bytes) -> None:
    with contextlib.suppress(EngineError):
        Answers().parse(_text(data))
    parser = uapi.SetParser()
    with contextlib.suppress(uapi.UapiError):
        for line in _text(data).split("\n"):
            parser.feed(line)
        parser.finish()


def _packets(data: bytes) -> None:
    if len(data) < 130:
        return
    shape(memoryview(data), data[0], data[1] << 3, data[2])
    complete(bytearray(data), data[1], data[2])
    rows = np.frombuffer(data[: len(data) // 64 // 2 * 2 * 64], np.uint8).reshape(-1, 64)
    lengths = np.full(len(rows), 64, np.int64)
    is_one_flow(rows, 64, True)
    assert sum(count for _, count in runs(rows, lengths, True)) == len(rows)


def _hosts(data: bytes) -> None:
    text = _text(data)
    parse_block(text)
    assert parse_block(replace_block(text, {})) == {}


def _excerpt(data: bytes) -> None:
    """What a mediator tells a host that joined: as it stands, and as prefixes in a document of the right shape."""
    _consented(_text(data))
    reader = memoryview(data)
    prefixes: list[Any] = []
    while len(reader) >= 6 and len(prefixes) < 12:
        size = 17 if reader[0] & 1 and len(reader) >= 18 else 5
        number = int.from_bytes(reader[1:size], "big")
        bits = 8 * (size - 1)
        address = IPv6Address(number) if size == 17 else IPv4Address(number)
        prefixes.append(str(ip_network((address, reader[size] % (bits + 1)), strict=False)))
        reader = reader[size + 1 :]
    if prefixes:
        pools = {f"ipv{ip_network(text).version}": text for text in prefixes[:2]}
        network = {
            "ipv6": "none",
            **pools,
            "mode": "routed",
            "members": ["gw", "me"],
            "allowPublicRange": True,
        }
        if data[0] & 2:
            network["topology"] = {"hub": "me"}
        members = {
            "me": {"wireguard": ME, "routes": prefixes[2:4]},
            "gw": {"wireguard": GATEWAY, "routes": prefixes[4:]},
        }
        mediators = [{"url": "netctl://192.0.2.1:8443", "identity": [PIN]}]
        plain = {
            "apiVersion": "netctl/v1",
            "mediators": mediators,
            "members": members,
            "networks": {"lan": network},
        }
        _consented(json.dumps(plain))


def _consented(text: str) -> None:
    """A document that loads gives a host nothing that it was not asked about."""
    try:
        document = load_document(text, "fuzz").document
    except ConfigError:
        return
    if "me" not in document.members or document.members["me"].wireguard is None:
        return
    keys = {name: WireGuardKey.parse(text) for name, text in (("me", ME), ("gw", GATEWAY))}
    members = {key: ViewMember(name, key, online=True) for name, key in keys.items()}
    pools = {name: network.ipv4 for name, network in document.networks.items() if network.ipv4 is not None}
    leases = {
        (name, key): Lease(name, key, (pool[at],))
        for name, pool in pools.items()
        for at, key in enumerate(keys.values())
        if at < pool.num_addresses
    }
    fitting, _ = clear_of(document, "me", HOME)
    fitting, _ = within_consent(fitting, "me", HOME)
    state = resolve(fitting, "me", View(1, members, leases, "")).state
    for route in state.routes:
        assert in_private_space(route.destination), route
        assert not any(route.destination.overlaps(foreign.destination) for foreign in HOME.routes), route
        assert not any(resolver in route.destination for resolver in HOME.resolvers), route
    assert "net/ipv4/ip_forward" not in state.sysctls, "no gateway and no hub"


TARGETS = (
    _excerpt,
    _stun,
    _frames,
    _relay_frames,
    _client_hello,
    _control,
    _relay,
    _router,
    _loader,
    _uapi,
    _packets,
    _hosts,
)


def one_input(data: bytes) -> None:
    """One decoder, chosen by the first byte."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
