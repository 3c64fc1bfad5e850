"""The main loop of netctl-wg: waits for sockets and the TUN, moves batches of packets, runs timers."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

from netctl.model.addresses import SocketAddress
from netctl.system.clock import boottime
from netctl.system.guard import Guard
from netctl.tunnel import Device, Effect, FlushStaged, SendDatagram, SendKeepalive
from netctl.wg import native
from netctl.wg.endpointroutes import RouteWatch, interface_to
from netctl.wg.inbox import Inbox
from netctl.wg.native.path import NativePath
from netctl.wg.outbox import Burst, Outbox
from netctl.wg.tun import Tun
from netctl.wg.udp import Udp

UDP_BURST = 32
"""Receive calls on one socket in one turn."""
BUSY_S = 0.001
"""Seconds: a turn sooner after the one before belongs to a stream, and takes all waiting packets."""
UNMERGED = 2
"""Unmerged datagrams in a row after which the others are received many at a time."""
TICK_S = 1.0
"""Seconds between two checks of the interface and the socket file."""
MAX_EVENTS = 64
RETRY_GSO_TICKS = 60
"""Ticks after which GSO is tried again with destinations that refused it: one minute."""
FAULT_REST_S = 0.1
"""Seconds without timers after a timer failed: it may be due again at once, and packets must get their turn."""
_LOG = logging.getLogger("netctl.wg")


class Shell:
    """A TUN, a device of the protocol, and UDP sockets, driven by epoll."""

    @property
    def faults(self) -> int:
        """Packets, datagrams and timers whose handling failed so far."""
        return self.guard.dropped

    def __init__(self, tun: Tun, device: Device, say: Callable[[str], None] | None = None) -> None:
        """`say` logs a line about input that was dropped because handling it failed; default: the logger."""
        self.guard = Guard(say if say is not None else _LOG.warning)
        self.dropped_nowhere = 0
        """Count of datagrams dropped because they come from port 0: the sender expects no answer (RFC 768)."""
        self._rest_until = float("-inf")
        self.tun = tun
        self.device = device
        self.interface = tun.name
        self.data_path = ""
        """The data path that moves packets, and the reason, for people."""
        self.fwmark = 0
        device.comes_back = self._comes_back
        self.on_foreign: Callable[[bytes, SocketAddress], None] | None = None
        self.watch_socket: Path | None = None
        self._udp: Udp | None = None
        self._outbox = Outbox(device)
        self._inbox = Inbox(device, tun)
        self._poll = select.epoll()
        self._native = self._open_native()
        self._sender: Outbox | NativePath = self._native or self._outbox
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._sources: dict[tuple[str, int, int], SocketAddress] = {}
        self._burst = Burst()
        self._last_read = self._last_received = -BUSY_S
        self._running = True
        self._watched: tuple[int, int] | None = None
        self._routes = RouteWatch(self._routes_changed, time.monotonic)
        self.register(self._routes.fileno(), self._routes.readable)
        self.register(tun.fd, self._from_tun if self._native is None else self._look)

    # -- for UAPI and hand-over ---------------------------------------------------------------------------------

    @property
    def listen_port(self) -> int:
        """The UDP port in use, 0 while there is none."""
        return self._udp.port if self._udp is not None else 0

    def set_listen_port(self, port: int) -> None:
        """Bind to a port (0: any). Raises OSError, with the old port still in use."""
        if self._udp is not None and port == self._udp.port:
            return
        fresh = Udp(port, self.fwmark)
        if self._udp is not None:
            for fd, _ in self._udp.filenos():
                self.unregister(fd)
            self._udp.close()
        self._udp = self._outbox.udp = fresh
        if self._native is not None:
            self._native.set_udp(fresh)
        for fd, opened in fresh.filenos():
            self.register(fd, lambda opened=opened: self._from_udp(opened))  # type: ignore[misc]

    def set_fwmark(self, mark: int) -> None:
        """Set the firewall mark of sent datagrams, 0 is none. Raises OSError."""
        if self._udp is not None:
            self._udp.set_mark(mark)
        self.fwmark = mark

    @staticmethod
    def now() -> float:
        """Monotonic seconds of a clock that runs on during suspend, since sessions age then, too."""
        return boottime()

    @staticmethod
    def unix_now() -> float:
        """Seconds since 1970."""
        return time.time()

    def perform(self, effects: list[Effect]) -> None:
        """Perform the effects that the protocol returned."""
        now = boottime()
        for effect in effects:
            match effect:
                case SendDatagram(_, destination, data):
                    if self._udp is not None:
                        self._udp.send(destination, data)
                case SendKeepalive(peer):
                    self._sender.keepalive(peer, now)
                case FlushStaged(peer):
                    for packet in peer.take_staged():
                        self._sender.packet(memoryview(packet), now)
                    self._sender.flush(now)

    def _comes_back(self, endpoint: SocketAddress) -> bool:
        return interface_to(endpoint.address, self.fwmark) == self.tun.index

    def _routes_changed(self) -> None:
        self.device.routes_changed(time.monotonic())

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back while `fd` is readable."""
        self._callbacks[fd] = callback
        self._poll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        """Stop calling back for `fd`."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def send_raw(
        self, destination: SocketAddress, data: bytes, ttl: int | None = None, *, whole: bool = False
    ) -> None:
        """Send one datagram from the WireGuard port; `whole`: neither this host nor a router may fragment it."""
        if self._udp is not None:
            self._udp.send(destination, data, ttl, whole=whole)

    def stop(self) -> None:
        """Leave `run` after this turn."""
        self._running = False

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until `stop`, or until the interface or the watched socket file is gone."""
        tick, ticks = boottime(), 0
        if self.watch_socket is not None:
            self._watched = _identity(self.watch_socket)
        while self._running:
            due = self.device.next_timer()
            now = boottime()
            wait = min(tick, max(due, self._rest_until)) - now if due is not None else tick - now
            if self._routes.due is not None:
                wait = min(wait, self._routes.due - now)
            for fd in self._wait(max(wait, 0.0)):
                callback = self._callbacks.get(fd)
                if callback is not None:
                    try:
                        callback()
                    except Exception as error:
                        self.guard.caught("what came in", error)
            self.guard.run("a look at the routes", self._routes.handle_timer)
            if now >= self._rest_until and not self.guard.run("a timer", self._timers):
                self._rest_until = now + FAULT_REST_S
            if boottime() >= tick:
                tick = boottime() + TICK_S
                self.guard.run("a look at the interface", self._look)
                ticks += 1
                if self._udp is not None and ticks % RETRY_GSO_TICKS == 0:
                    self._udp.forget_refusals()
                    if self._native is not None:
                        self._native.forget_refusals()

    def _wait(self, timeout: float) -> list[int]:
        """The readable descriptors; the data path in C handles its own and does not return them."""
        if self._native is not None:
            try:
                return self._native.move(timeout)
            except Exception as error:
                self.guard.caught("packets", error)
                return []
        return [fd for fd, _ in self._poll.poll(timeout, MAX_EVENTS)]

    def _open_native(self) -> NativePath | None:
        module, why = native.load()
        if module is None:
            self.data_path = f"Python ({why})"
            return None
        self.data_path = f"native ({why})"
        tun, epoll = self.tun, self._poll.fileno()
        clock, busy_poll_s = time.CLOCK_BOOTTIME, native.busy_poll_s()
        core = module.Core(tun.fd, epoll, clock, tun.offload, tun.uso, busy_poll_s)
        return NativePath(core, self.device, self._other, self.perform)

    def start_workers(self) -> None:
        """Start threads that encrypt and decrypt, where there are cores for them. They inherit its confinement."""
        if self._native is None:
            return
        wanted, wrong = native.threads()
        if wrong:
            _LOG.warning(wrong)
        if wanted > 1:
            try:
                self._native.core.start_workers(wanted)
            except OSError as error:  # no memory, or a limit of processes: one thread does all the work
                _LOG.warning(f"no more than one thread: {error.strerror or error}")
                return
            self.data_path += f", {wanted} threads"

    def close(self) -> None:
        """Close sockets and interface."""
        if self._native is not None:
            self._native.core.stop_workers()
        if self._udp is not None:
            self._udp.close()
        self._routes.close()
        self._poll.close()
        self.tun.close()

    def _timers(self) -> None:
        """Run a bounded share of the due timers: packets and configuration get their turn before the next share."""
        due = self.device.next_timer()
        now = boottime()
        if due is not None and due <= now:
            self.perform(self.device.handle_timer(now, time.time()))

    def _look(self) -> None:
        """Check that interface and socket file still exist, and adopt a new name or MTU of the interface."""
        name = self.tun.current_name()
        if name is None:
            self.stop()
            return
        self.interface = self.tun.name = name
        if self._native is None:
            self.device.changed.clear()  # only the data path in C uses it; it would keep removed peers alive
        try:
            mtu = self.tun.mtu
        except OSError:
            self.stop()
            return
        if mtu != self._outbox.mtu:
            self._outbox.mtu = mtu
            self._outbox.forget_layouts()
            if self._native is not None:
                self._native.core.set_mtu(mtu)
            self.tun.limit_gso(mtu)
        if self.watch_socket is not None and _identity(self.watch_socket) != self._watched:
            self.stop()

    def _from_tun(self) -> None:
        now = boottime()
        outbox, burst, fd = self._outbox, self._burst, self.tun.fd
        is_busy = now - self._last_read < BUSY_S
        self._last_read = now
        if not is_busy:  # after a rest: read one packet, which may be a ping, without asking for more
            try:
                count = os.readv(fd, burst.buffers[0])
            except BlockingIOError:
                return
            except OSError:
                self._look()  # EIO while the interface is down, EBADFD when it is gone
                return
            outbox.lone(burst.views[0], count, now)
            return
        lengths = burst.lengths
        lengths.clear()
        for _ in range(burst.COUNT):
            slot = len(lengths)
            try:
                count = os.readv(fd, burst.buffers[slot])
            except BlockingIOError:
                break
            except OSError:
                self._look()
                break
            if count > burst.SLOT:  # a super-packet, which covers the following slots, too
                if slot:
                    outbox.burst(burst, now)
                outbox.packet(burst.views[slot][:count], now)
                outbox.flush(now)
            else:
                lengths.append(count)
        if lengths:
            outbox.burst(burst, now)
            outbox.flush(now)

    def _from_udp(self, opened: socket.socket) -> None:
        udp, inbox = self._udp, self._inbox
        if udp is None:
            return
        now = boottime()
        is_busy = now - self._last_received < BUSY_S
        self._last_received = now
        unmerged = 0
        for _ in range(UDP_BURST):
            got = udp.receive(opened, inbox.buffer)
            if got is None:
                return
            total, size, address = got
            if total and (source := self._source(address)) is not None:
                inbox.receive(total, size, source, now, self._other)
            if not is_busy:
                return
            unmerged = unmerged + 1 if size == total else 0
            if unmerged == UNMERGED and inbox.ring is not None:
                break
        ring = inbox.ring
        if ring is None or unmerged < UNMERGED:
            return
        taken = ring.receive(opened.fileno())
        for first, count, total, size in ring.runs(taken):
            source = self._source(ring.source(first))
            if source is None:
                continue
            try:
                if size < total:
                    inbox.receive_merged(first, total, size, source, now, self._other)
                else:
                    inbox.receive_run(first, count, size, source, now, self._other)
            except Exception as error:
                self.guard.caught("datagrams", error)

    def _source(self, address: tuple[str, int, int]) -> SocketAddress | None:
        """The source as a value; None: port 0, to which no answer can be sent."""
        if not address[1]:
            self.dropped_nowhere += 1
            return None
        known = self._sources.get(address)
        if known is None:
            if len(self._sources) > 4096:  # an attacker's many sources must not fill the memory
                self._sources.clear()
            host, port, scope = address
            known = SocketAddress.of(f"{host}%{scope}" if scope else host, port)
            self._sources[address] = known
        return known

    def _other(self, datagram: bytes, source: SocketAddress) -> None:
        """Handle one datagram under its own guard: the kernel may merge it with forged ones of the same source."""
        try:
            self._handshake_or_foreign(datagram, source)
        except Exception as error:
            self.guard.caught("a datagram", error)

    def _handshake_or_foreign(self, datagram: bytes, source: SocketAddress) -> None:
        if len(datagram) < 4 or not 1 <= int.from_bytes(datagram[:4], "little") <= 4:
            if self.on_foreign is not None:
                self.on_foreign(datagram, source)
            return
        now = boottime()
        self.perform(self.device.handle_handshake(datagram, source, now, time.time()))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
