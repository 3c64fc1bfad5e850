"""netctl-wg gives up what it does not need, once it serves its sockets: whoever takes it over has a tunnel, not a host.

capabilities(7): what is left is CAP_NET_ADMIN (MTU, marks, socket buffers) and CAP_NET_BIND_SERVICE (a `listenPort`
below 1024). no_new_privs (prctl(2)) for good. Two filters where the kernel has them: seccomp(2) lets through the
system calls of a loop over sockets and a TUN, so no file is opened, nothing is executed and nobody is connected to;
landlock(7) lets files be removed in the sockets' directory alone.

The seccomp filter is made by libseccomp, which knows the numbers of calls of every architecture and checks the
architecture. Its C functions are called here, for its Python binding is a Debian package outside of any virtual
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
"""The kernel has 41; the interface has room for 64."""
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

LIBSECCOMP = "libseccomp.so.2"
_ACT_ALLOW, _ACT_ERRNO = 0x7FFF0000, 0x00050000
_CMP_EQ = 4
_ATTRIBUTES = {4: 1, 7: 1, 8: 2}
"""CTL_TSYNC: for all threads. CTL_SSB: kernels before 5.16 would switch a speculation of the CPU off for whoever has a
filter, which costs a tenth and is for those who run code of strangers. CTL_OPTIMIZE: a tree instead of a list. The last
two are of libseccomp 2.5."""
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
"""What is let through; all else fails with EPERM, which a Python program survives where a killed one drops tunnels.

No open, no execve, no fork, no connect, no ptrace: checked by name in the tests.
"""
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
"""Of new sockets: another port, the link's parameters. Unix sockets are there already."""

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""The same number on every architecture."""
_LANDLOCK_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1
_ACCESS_REMOVE_FILE = 1 << 5
_ACCESS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1}
_ACCESS_LATER = (1 << 15) - 1


def confine(directory: Path, start_threads: Callable[[], None] = lambda: None) -> list[str]:
    """Give it all up; what this system could not do, in words. `directory`: where our sockets are.

    Before it everything is loaded and opened; afterwards no file is. `start_threads` is called before the filter, which
    lets none be made and is put on all that are there (SECCOMP_FILTER_FLAG_TSYNC), and after the rest: capabilities,
    no_new_privs and landlock are of each thread, and inherited.
    """
    _warm_up()
    missing: list[str] = []
    libc = ctypes.CDLL(None, use_errno=True)
    try:  # the library is a file, which landlock would not let us read
        seccomp = partial(_seccomp, ctypes.CDLL(LIBSECCOMP, use_errno=True))
    except OSError as error:
        seccomp = partial(_raise, error)
    for name, step in (
        ("capabilities", lambda: _drop_capabilities(libc)),
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
    """Raises OSError for what a C function says is one."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _warm_up() -> None:
    """OpenSSL and Python read files the first time that something is used, which is not possible later."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    private.exchange(private.public_key())
    cipher = ChaCha20Poly1305(bytes(32))
    with contextlib.suppress(InvalidTag):
        cipher.decrypt(bytes(12), bytearray(cipher.encrypt(bytes(12), b"x", None))[::-1], None)
    "localhost".encode("idna")  # which a socket does with an address that it is given as text
    os.strerror(errno.EPERM)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """In all five sets. Raises OSError."""
    for number in range(LAST_CAP + 1):
        if not KEPT >> number & 1 and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            break  # past the last one that the kernel knows, or no CAP_SETPCAP: then nothing could be raised by it
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = ctypes.create_string_buffer(24)
    _checked(libc.capget(header, sets))
    _, low, _, _, high, _ = struct.unpack("=6I", sets.raw)
    kept = (low | high << 32) & KEPT
    parts = [kept & 0xFFFFFFFF, kept & 0xFFFFFFFF, 0, kept >> 32, kept >> 32, 0]
    _checked(libc.capset(header, struct.pack("=6I", *parts)))


def _landlock(libc: ctypes.CDLL, directory: Path) -> None:
    """No file system but removing our own sockets. Raises OSError where the kernel has none of it."""
    abi = _checked(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION))
    handled = struct.pack("=Q", _ACCESS_BY_ABI.get(abi, _ACCESS_LATER))
    rules = _checked(libc.syscall(_LANDLOCK_CREATE_RULESET, handled, len(handled), 0))
    try:
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
    """Raises OSError where the kernel has no filters."""
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
        # A call that this architecture does not have is no fault: its number is negative.
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
