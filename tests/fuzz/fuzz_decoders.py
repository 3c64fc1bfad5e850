"""Fuzz every other decoder with atheris: ``python tests/fuzz/fuzz_decoders.py [corpus] [-max_total_time=60]``.

The first byte chooses the decoder. A finding is any exception but the one that each of them documents.
"""

import contextlib
import sys
from ipaddress import IPv4Address

import atheris

with atheris.instrument_imports(
    include=["netctl.wire", "netctl.wg", "netctl.config.loader", "netctl.engine.uapi"]
):
    import numpy as np

    from netctl.config.loader import parse
    from netctl.engine.hosts import parse_block, replace_block
    from netctl.engine.uapi import parse_get
    from netctl.model.addresses import SocketAddress
    from netctl.model.errors import ConfigError, EngineError, RemoteError
    from netctl.wg import uapi
    from netctl.wg.coalesce import is_one_flow, runs
    from netctl.wg.segment import complete, shape
    from netctl.wire import clienthello, control, http, natpmp, pcp, relay, stun, upnp
    from netctl.wire.datagram import classify
    from netctl.wire.frame import FrameDecoder
    from netctl.wire.relayframe import FrameReader, frame

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
                    control.decode(payload)
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
        control.decode(data)


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
        parse_get(_text(data))
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


TARGETS = (
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
