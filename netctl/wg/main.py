"""`netctl-wg`: a userspace WireGuard for one interface, with the command line of `wireguard-go`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import syslog
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, NoReturn

from netctl.model.errors import LocalError, NetctlError
from netctl.system import logs
from netctl.system.logs import SILENT

if TYPE_CHECKING:
    from netctl.wg.loop import Shell

USAGE = """usage: netctl-wg [-f|--foreground] [--log-level LEVEL] [--log-format text|json] INTERFACE
       netctl-wg --version

Makes the interface and serves /var/run/wireguard/INTERFACE.sock for wg(8); ends when either is deleted.

environment:
  LOG_LEVEL                silent, error (default) or verbose; --log-level (debug, info, warning, error) goes before it
  WG_PROCESS_FOREGROUND=1  the same as --foreground
  NETCTL_WG_NATIVE=0       move packets in Python, also where the data path in C was built
  NETCTL_WG_BUSY_POLL_US=N look for the next packet for N microseconds before sleeping (0 to 1000, default 0):
                           shorter answers where a core is idle, longer ones where none is
  NETCTL_WG_THREADS=N      seal and open by N threads (1 to 8); default: 1 on one or two cores, else all but one, at
                           most 4
"""
EXIT_OK, EXIT_FAILED = 0, 1
MAX_MESSAGE = 4096
"""Bytes of the line that a failing child passes to its parent."""
ENVIRONMENT_LEVELS = {
    "silent": SILENT,
    "error": logging.WARNING,
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
}
"""The meaning of ``LOG_LEVEL``, as for `wireguard-go`, whose level "error" corresponds to our warnings."""
_LOG = logging.getLogger("netctl.wg")


def main(argv: list[str] | None = None) -> int:
    """Run netctl-wg. 0: the interface is up and served (or, in the foreground, has ended); 1: failed with a message."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["--version"]:
        from netctl.wg import native

        sys.stdout.write(f"netctl-wg {_version()}\ndata path: {native.describe()}\n")
        return EXIT_OK
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        return EXIT_OK
    options = _parsed(arguments)
    if options is None:
        sys.stderr.write(USAGE)
        return EXIT_FAILED
    syslog.openlog("netctl-wg", syslog.LOG_PID | syslog.LOG_NDELAY, syslog.LOG_DAEMON)
    also = None if logs.to_journal() else _SystemLog(logging.WARNING)
    logs.start(options.level, options.form, prefix="netctl-wg: ", also=also)
    if options.foreground or os.environ.get("WG_PROCESS_FOREGROUND") == "1":
        return _in_foreground(options.interface)
    return _in_background(options.interface, keep_stderr=options.keep_stderr)


@dataclass(frozen=True, slots=True)
class _Options:
    interface: str
    foreground: bool
    level: int
    form: str
    keep_stderr: bool
    """Keep the standard error in the background, too: the user has asked for the log."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parsed(arguments: Sequence[str]) -> _Options | None:
    """The options of a command line; None: invalid arguments."""
    parser = _Parser(prog="netctl-wg", add_help=False, allow_abbrev=False)
    parser.add_argument("-f", "--foreground", action="store_true")
    parser.add_argument("--log-level", choices=list(logs.LEVELS))
    parser.add_argument("--log-format", choices=logs.FORMATS, default=logs.FORMATS[0])
    parser.add_argument("interface")
    try:
        found = parser.parse_args(arguments)
    except ValueError:
        return None
    said = os.environ.get("LOG_LEVEL", "")
    level = ENVIRONMENT_LEVELS.get(said, logging.WARNING)
    if found.log_level is not None:
        level = logs.LEVELS[found.log_level]
    keep = found.log_level is not None or said not in ("", "silent")
    return _Options(found.interface, found.foreground, level, found.log_format, keep)


class _SystemLog(logging.Handler):
    """Writes records to the system's log as well: a daemon's standard error is often discarded."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record to syslog."""
        syslog.syslog(syslog.LOG_WARNING, logs.one_line(record))


def _version() -> str:
    try:
        return version("netctl")
    except PackageNotFoundError:
        return "unknown"


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, f"netctl-wg: {message}\n".encode(errors="replace"))


def _in_foreground(name: str) -> int:
    try:
        serve(name, lambda: None)
    except NetctlError as error:
        _say(str(error))
        return EXIT_FAILED
    return EXIT_OK


def _in_background(name: str, *, keep_stderr: bool) -> int:
    """Fork. The parent waits until the child serves the socket or reports why it cannot."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with open(reader, "rb") as pipe:
            message = pipe.read(MAX_MESSAGE)
        if message == b"\0":
            return EXIT_OK
        os.waitpid(child, 0)
        _say(message.decode(errors="replace") or "it died before the interface was ready")
        return EXIT_FAILED
    os.close(reader)
    code = EXIT_FAILED

    def ready() -> None:
        _detach(keep_stderr=keep_stderr)
        os.write(writer, b"\0")
        os.close(writer)

    try:
        serve(name, ready)
        code = EXIT_OK
    except NetctlError as error:
        with contextlib.suppress(OSError):
            os.write(writer, str(error).encode()[:MAX_MESSAGE])
    finally:
        os._exit(code)  # the child must not return into the parent's code


def _detach(*, keep_stderr: bool) -> None:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1) if keep_stderr else (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def serve(name: str, ready: Callable[[], None]) -> None:
    """Make the interface, call `ready`, and run until the interface or its socket is deleted, or SIGTERM or SIGINT.

    Raises LocalError: one line that says what to do.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one thread is enough, and its pools cost memory
    from netctl.system.confine import confine
    from netctl.tunnel import Device
    from netctl.wg.handover import HandoverServer, handover_path
    from netctl.wg.loop import Shell
    from netctl.wg.tun import Tun
    from netctl.wg.uapi_server import SOCKET_DIR, UapiServer, socket_path

    try:
        tun = Tun.create(name)
    except OSError as error:
        raise LocalError(explain(name, error)) from error
    shell = Shell(tun, Device(None, os.urandom), _LOG.warning)
    server = UapiServer(shell, socket_path(name), _LOG.warning)
    handover = HandoverServer(shell, handover_path(name))
    try:
        try:
            shell.set_listen_port(0)
            server.start()
            handover.start()
        except OSError as error:
            raise LocalError(f"{name}: {error.strerror or error}") from error
        shell.watch_socket = socket_path(name)
        gc.freeze()  # loaded objects stay: no collection visits them while packets wait
        with _signals(shell):
            ready()
            for missing in confine(SOCKET_DIR, shell.start_workers):
                _LOG.debug(f"not given up, {missing}")
            _LOG.info(f"{name} is up, configured through {socket_path(name)}; data path: {shell.data_path}")
            shell.run()
        _LOG.info(f"{name} is going away")
    finally:
        handover.close()
        server.close()
        shell.close()


def explain(name: str, error: OSError) -> str:
    """Why the interface could not be made, and what to do about it."""
    code = error.errno
    if code == errno.EINVAL and _is_taken(name):
        code = errno.EBUSY  # the kernel says EINVAL when an interface that is no TUN has the name
    match code:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return (
                "there is no /dev/net/tun: load it with 'modprobe tun', or give the container that device "
                "(--device /dev/net/tun)"
            )
        case errno.EPERM | errno.EACCES:
            return f"no permission to make {name}: run as root, or with CAP_NET_ADMIN"
        case errno.EBUSY | errno.EEXIST:
            return f"the interface {name} exists already: take another name, or 'ip link del {name}' first"
        case errno.EINVAL:
            return f"'{name}' is no interface name: take 1 to 15 characters without '/' and spaces"
        case _:
            return f"the interface {name} cannot be made: {error.strerror or error}"


def _is_taken(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _signals(shell: Shell) -> Iterator[None]:
    """SIGTERM and SIGINT stop the shell at once. Python resumes epoll after a signal, so a descriptor must wake it."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    caught = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: shell.stop()) for number in caught}
    shell.register(reader.fileno(), lambda: _drain(reader))
    try:
        yield
    finally:
        shell.unregister(reader.fileno())
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        reader.close()
        writer.close()


def _drain(reader: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        reader.recv(64)


if __name__ == "__main__":
    sys.exit(main())
