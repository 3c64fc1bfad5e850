"""A mediator's host with several addresses: STUN and the relay answer from the one that was asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import Host, Program, join, needs_namespaces
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, needs_namespaces]
SECRET = bytes(range(32))
PORTS = range(46100, 46110)
ASKED = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "fd77::1", "fd77::2"]
STUN_PORT = 3478
SERVER = f"""
import asyncio, threading
from mediator.core.relay_table import RelayTable
from mediator.shell.relayserver import RelayServer
from mediator.shell.stunserver import StunServer
ports = range({PORTS.start}, {PORTS.stop})
relays = RelayServer("::", ports, RelayTable({SECRET!r}, b"c" * 32, ports))
threading.Thread(target=relays.serve, daemon=True).start()
async def main():
    StunServer("::", {STUN_PORT}).start()
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
CLIENT = """
import json, socket, struct, sys, time
from netctl.wire import relay, stun
asked, a_port, b_port, stun_port = sys.argv[1], *map(int, sys.argv[2:5])
secret = bytes.fromhex(sys.argv[5])
family = socket.AF_INET6 if ":" in asked else socket.AF_INET
said = {}

def client():
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(120)
    made.bind(("", 0))
    return made

def exchange(made, data, port):
    made.sendto(data, (asked, port))
    return made.recvfrom(65535)

stranger = client()
said["stun"] = exchange(stranger, stun.binding_request(b"t" * 12), stun_port)[1][0]
ends = {}
for own, peer in ((a_port, b_port), (b_port, a_port)):
    made = ends[own] = client()
    allocation = relay.Allocation(own, peer, int(time.time()) + 60)
    key = allocation.key(secret)
    data, source = exchange(made, relay.seal(relay.Bind(allocation, b"t" * 8), key), peer)
    said[f"cookie {peer}"] = source[0]
    cookie = relay.open_message(data, key).cookie
    said[f"bound {peer}"] = exchange(made, relay.seal(relay.Confirm(allocation, b"u" * 8, cookie), key), peer)[1][0]
said["notice"] = ends[a_port].recvfrom(65535)[1][0]
message = struct.pack("<I", 4) + bytes(96)
ends[a_port].sendto(message, (asked, b_port))
said["relayed"] = ends[b_port].recvfrom(65535)[1][0]
segment = [(socket.SOL_UDP, 103, struct.pack("H", 100))]
ends[a_port].sendmsg([message * 5], segment, 0, (asked, b_port))
said["batch"] = ends[b_port].recvfrom(65535)[1][0]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    mediator, member = Host("mediator"), Host("member")
    try:
        join(mediator, member, "192.0.2.1/24", "192.0.2.9/24")
        for address in ("192.0.2.2/24", "192.0.2.3/32"):
            mediator.run("ip", "addr", "add", address, "dev", "eth0")
        for host, address in ((mediator, "fd77::1/64"), (mediator, "fd77::2/64"), (member, "fd77::9/64")):
            host.run("ip", "addr", "add", address, "dev", "eth0", "nodad")
        # The system's own choice for both families is the first: so it is seen when nobody chooses.
        member.run("ip", "route", "add", "192.0.2.3/32", "dev", "eth0")
        yield mediator, member
    finally:
        member.close()
        mediator.close()


@pytest.fixture(scope="module")
def server(pair: tuple[Host, Host]) -> Iterator[Program]:
    program = pair[0].start(sys.executable, "-c", SERVER)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    yield program
    program.kill()
    program.communicate(timeout=BUSY_S)


@pytest.mark.parametrize("asked", ASKED)
def test_every_answer_leaves_from_the_address_that_was_asked(
    pair: tuple[Host, Host], server: Program, asked: str
) -> None:
    own = PORTS[2 * ASKED.index(asked)]  # another pair of members each time
    said = json.loads(
        pair[1].python(CLIENT, asked, str(own), str(own + 1), str(STUN_PORT), SECRET.hex(), timeout=BUSY_S)
    )
    assert len(said) == 8
    assert set(said.values()) == {asked}, said
