"""Small programs that run on lab hosts as any program would: plain sockets, no knowledge of netctl.

`python -m netctl.lab.programs hear PORT SECONDS | shout ADDRESS PORT TEXT | serve tcp|udp PORT SECONDS |
knock tcp|udp HOST PORT SECONDS`; `hear` and `serve` also end with their standard input.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence

READY = "ready"
"""The line by which a program says that it listens."""
SHOUTS = 3
"""Repetitions of a broadcast, which has no acknowledgement; real discovery programs repeat theirs too."""
SHOUT_PAUSE_S = 0.3
KNOCK_PAUSE_S = 0.3
"""Seconds that one try of a knock waits for its answer."""


def say(text: str) -> None:
    """Print a line for the process that started this program."""
    print(text, flush=True)


def end_with_input() -> None:
    """Exit when standard input ends, so that the port is free for the next program."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def hear(port: int, seconds: float) -> int:
    """Wait for one datagram on a port, and print its sender and text."""
    end_with_input()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", port))
        listener.settimeout(seconds)
        say(READY)
        try:
            data, source = listener.recvfrom(2048)
        except TimeoutError:
            return 1
    say(json.dumps({"from": source[0], "text": data.decode(errors="replace")}))
    return 0


def shout(address: str, port: int, text: str) -> int:
    """Send a datagram to a broadcast address SHOUTS times."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(SHOUTS):
            sender.sendto(text.encode(), (address, port))
            time.sleep(SHOUT_PAUSE_S)
    return 0


def serve(kind: str, port: int, seconds: float) -> int:
    """Answer on a TCP or UDP port for `seconds`."""
    end_with_input()
    deadline = time.monotonic() + seconds
    transport = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, transport) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        if kind == "tcp":
            server.listen()
        say(READY)
        while (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                if kind == "tcp":
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"hello")
                else:
                    _, source = server.recvfrom(2048)
                    server.sendto(b"hello", source)
            except TimeoutError:
                break
    return 0


def knock(kind: str, host: str, port: int, seconds: float) -> int:
    """Contact a server: exit status 0 if its hello arrives."""
    if kind == "tcp":
        try:
            with socket.create_connection((host, port), seconds) as connection:
                return 0 if connection.recv(16) == b"hello" else 1
        except OSError:
            return 1
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(KNOCK_PAUSE_S)
        while time.monotonic() < deadline:
            try:
                client.sendto(b"knock", (host, port))
                if client.recv(16) == b"hello":
                    return 0
            except OSError:
                continue
    return 1


def main(argv: Sequence[str]) -> int:
    """Run one of the programs."""
    match list(argv):
        case ["hear", port, seconds]:
            return hear(int(port), float(seconds))
        case ["shout", address, port, text]:
            return shout(address, int(port), text)
        case ["serve", kind, port, seconds]:
            return serve(kind, int(port), float(seconds))
        case ["knock", kind, host, port, seconds]:
            return knock(kind, host, int(port), float(seconds))
    say(__doc__ or "")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
