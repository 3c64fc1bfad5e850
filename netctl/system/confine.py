"""Drops the privileges of a process that moves packets, once it serves its sockets.

An attacker in netctl-wg gets a tunnel, one in a member's relay ciphertext, and neither gets the host.

capabilities(7): netctl-wg keeps CAP_NET_ADMIN (MTU, marks, socket buffers) and CAP_NET_BIND_SERVICE (a `listenPort`
below 1024), a relay none. no_new_privs (prctl(2)) is set for good. Two filters are set where the kernel has them:
seccomp(2) permits only the system calls of a loop over sockets and a TUN, so the process cannot open files, execute
programs or connect; landlock(7) permits only removing files in the sockets' directory.

libseccomp makes the seccomp filter: it knows the call numbers of every architecture and checks the architecture. This
module calls its C functions through ctypes, since its Python binding is a Debian package outside of any virtual
environment, and the one on PyPI has had no release since 2021.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

CAP_NET_BIND_SERVICE, CAP_NET_ADMIN = 10, 12
KEPT = 1 << CAP_NET_ADMIN | 1 << CAP_NET_BIND_SERVICE
LAST_CAP = 63
"""The highest capability number of the interface, which has room for 64; the kernel has 41."""
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

LIBSECCOMP = "libseccomp.so.2"
_ACT_ALLOW, _ACT_ERRNO = 0x7FFF0000, 0x00050000
_CMP_EQ = 4
_ATTRIBUTES = {4: 1, 7: 1, 8: 2}
"""CTL_TSYNC: filter all threads. CTL_SSB: leave speculative store bypass on; kernels before 5.16 would switch it off
for a process with a filter, which costs a tenth of the speed and protects only programs that run foreign code.
CTL_OPTIMIZE: a tree instead of a list. libseccomp has the last two since 2.5."""
CALLS = """
    read write readv writev pread64 pwrite64 preadv preadv2 pwritev recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg
    bind listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt ioctl
    fcntl close unlink unlinkat umask
    epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
    stat lstat fstat newfstatat statx lseek
    brk mmap munmap mremap mprotect madvise futex getrandom sigaltstack rt_sigaction
    rt_sigprocmask rt_sigreturn restart_syscall sched_yield sched_getaffinity rseq membarrier
    set_robust_list get_robust_list getpid gettid getuid geteuid getgid getegid tgkill exit exit_group
""".split()  # noqa: SIM905 - read as it is, not as ninety strings
"""The permitted system calls. Any other call fails with EPERM, which a Python program survives: killing it would drop
the tunnels.

No open, no execve, no fork, no connect, no ptrace: the tests check these names.
"""
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Address families of new sockets, for another port and the link's parameters. The Unix sockets are open already."""

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""System call numbers, the same on every architecture."""
_LANDLOCK_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1
_ACCESS_REMOVE_FILE = 1 << 5
_ACCESS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1}
_ACCESS_LATER = (1 << 15) - 1


def confine(
    directory: Path | None, start_threads: Callable[[], None] = lambda: None, *, kept: int = KEPT
) -> list[str]:
    """Drop the privileges; returns the steps that this system could not do, in words.

    `directory`: of our sockets, which may be removed there; None: there are none. `kept`: the capabilities to keep, as
    bits.

    The caller loads and opens everything before: afterwards no file can be opened. `start_threads` is called before the
    seccomp filter is set, since the filter permits no new threads and covers all existing ones
    (SECCOMP_FILTER_FLAG_TSYNC). It is called after the other steps, since each thread has its own capabilities,
    no_new_privs and landlock domain, and new threads inherit them.
    """
    _warm_up()
    missing: list[str] = []
    libc = ctypes.CDLL(None, use_errno=True)
    try:  # before landlock, which would not let us read the library's file
        seccomp = partial(_seccomp, ctypes.CDLL(LIBSECCOMP, use_errno=True))
    except OSError as error:
        seccomp = partial(_raise, error)
    for name, step in (
        ("capabilities", lambda: _drop_capabilities(libc, kept)),
        ("no_new_privs", lambda: _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))),
        ("landlock", lambda: _landlock(libc, directory)),
        ("seccomp", seccomp),
    ):
        if name == "seccomp":
            start_threads()
        try:
            step()
        except OSError as error:
            missing.append(f"{name}: {error.strerror or error}")
    return missing


def _checked(result: int) -> int:
    """The result of a C function. Raises OSError for a negative result."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _warm_up() -> None:
    """Use what OpenSSL and Python load from files at the first use, since no file can be read later."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    private.exchange(private.public_key())
    cipher = ChaCha20Poly1305(bytes(32))
    with contextlib.suppress(InvalidTag):
        cipher.decrypt(bytes(12), bytearray(cipher.encrypt(bytes(12), b"x", None))[::-1], None)
    "localhost".encode("idna")  # sockets encode an address given as text this way
    os.strerror(errno.EPERM)


def _drop_capabilities(libc: ctypes.CDLL, keep: int) -> None:
    """Drop all capabilities but `keep` in all five sets. Raises OSError."""
    for number in range(LAST_CAP + 1):
        if not keep >> number & 1 and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # past the kernel's last capability; or no CAP_SETPCAP, and then none can be gained either
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    _checked(libc.capget(header, sets))
    _, low, _, _, high, _ = struct.unpack("=6I", sets.raw)
    kept = (low | high << 32) & keep
    parts = [kept & 0xFFFFFFFF, kept & 0xFFFFFFFF, 0, kept >> 32, kept >> 32, 0]
    _checked(libc.capset(header, struct.pack("=6I", *parts)))


def _landlock(libc: ctypes.CDLL, directory: Path | None) -> None:
    """Forbid all file system access but removing our sockets. Raises OSError where the kernel lacks landlock."""
    abi = _checked(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))
    handled = struct.pack("=Q", _ACCESS_BY_ABI.get(abi, _ACCESS_LATER))
    rules = _checked(libc.syscall(_LANDLOCK_CREATE_RULESET, handled, len(handled), 0))
    try:
        if directory is not None:
            beneath = os.open(directory, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", _ACCESS_REMOVE_FILE, beneath)
                _checked(libc.syscall(_LANDLOCK_ADD_RULE, rules, _LANDLOCK_PATH_BENEATH, rule, 0))
            finally:
                os.close(beneath)
        _checked(libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def _raise(error: OSError) -> None:
    raise error


def _seccomp(library: ctypes.CDLL) -> None:
    """Set the system call filter. Raises OSError where the kernel has no filters."""
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        raise OSError(errno.ENOSYS, "a 32-bit system has other calls, which nobody has tried")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    compared = ctypes.POINTER(_Comparison)
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        compared,
    ]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_load.argtypes = library.seccomp_release.argtypes = [ctypes.c_void_p]
    context = library.seccomp_init(_ACT_ERRNO | errno.EPERM)
    if not context:
        raise OSError(errno.ENOSYS, "libseccomp makes no filter")

    def allow(name: str, *comparisons: _Comparison) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        array = (_Comparison * len(comparisons))(*comparisons)
        # A call that this architecture does not have is no error: its number is negative.
        library.seccomp_rule_add_array(context, _ACT_ALLOW, number, len(comparisons), array)

    try:
        for attribute, value in _ATTRIBUTES.items():
            library.seccomp_attr_set(context, attribute, value)
        for name in CALLS:
            allow(name)
        for family in FAMILIES:
            allow("socket", _Comparison(0, _CMP_EQ, family, 0))
        result = library.seccomp_load(context)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
    finally:
        library.seccomp_release(context)
