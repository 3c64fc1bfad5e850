"""Debian's cloud kernel under QEMU, with this machine's files: `run` executes one command in there as root.

It needs nothing of this machine but QEMU: modules and the program that loads them come with the guest's kernel.
The guest has no disk. Its initramfs (busybox and a few modules, made here) mounts this machine's / over virtiofs,
read-only, puts a tmpfs overlay on it and runs the command in that: the same Python, the same checkout, the same
tools, another kernel. What the guest writes is gone with it.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SYSTEM = CHECKOUT / ".cache/kernel/root"
"""The kernel package and busybox, unpacked by `scripts/setup kernel`."""
QEMU = "qemu-system-x86_64"
VIRTIOFSD = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
"""Debian 12's, part of QEMU and written in C; Debian 13's, written in Rust, which stands at both places."""
IN_C = ["-f", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot", "-o", "log_level=err"]
IN_RUST = ["--shared-dir=/", "--cache=always", "--sandbox=chroot", "--log-level=error"]
NO_SUBMOUNTS = "--no-announce-submounts"
"""An overlay refuses what the guest is told is a mount point (EREMOTE). Only newer ones in Rust tell, and know this."""
FIRST_MODULES = ("virtio_pci", "virtiofs", "overlay")
"""What is needed before / is there; every other module is loaded from it when it is asked for."""
START_TIMEOUT_S = 60.0
"""Of virtiofsd: a moment, and a busy machine takes longer."""
MEMORY_MIB = 1536
"""Python, pytest and a device of 5,000 peers take half of it."""
EXIT = "guest exit code: "

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
$b mount -t virtiofs -o ro host /lower
$b mount -t tmpfs tmpfs /upper
$b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root
$b mkdir -p /root/lib/modules  # this machine may have no modules of its own
$b mount --bind /lower{modules} /root/lib/modules
{binds}
$b mount -t proc proc /root/proc
$b mount -t sysfs sysfs /root/sys
$b mount -t devtmpfs devtmpfs /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
$b mount -t tmpfs tmpfs /root/run
$b mount -t tmpfs tmpfs /root/dev/shm
$b cp /command /root/run/command
$b cp /bin/busybox /root/run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
exec $b switch_root /root /bin/sh /run/command
"""
COMMAND = """export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1
ip link set lo up
/run/modprobe tun
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
{{ cd {directory} && {command} < /dev/null; echo "{exit}$?"; }} 2>&1 | cat
sleep 60  # this machine ends the guest at the line above; a reset from here would lose what is on its way
"""


def why_not() -> str | None:
    """Why this machine cannot run the guest; None when it can."""
    if os.geteuid() != 0:
        return "the guest needs root (virtiofsd gives it this machine's files)"
    if shutil.which(QEMU) is None:
        return f"no {QEMU}; `scripts/setup kernel` installs it"
    if not any(path.exists() for path in VIRTIOFSD):
        return "no virtiofsd; `scripts/setup kernel` installs it"
    if not (SYSTEM.parent / "ready").exists():
        return "no guest kernel; `scripts/setup kernel` fetches Debian's"
    return None


def kernel() -> tuple[str, Path]:
    """Its version and its image."""
    image = next(SYSTEM.glob("boot/vmlinuz-*"))
    return image.name.removeprefix("vmlinuz-"), image


def modules_of(version: str, names: Iterable[str]) -> list[Path]:
    """These modules and what they stand on, in loading order; those built into the kernel are left out."""
    folder = SYSTEM / "lib/modules" / version
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, stands_on = line.partition(":")
        needs[path] = stands_on.split()
    by_name = {Path(path).name.partition(".")[0]: path for path in needs}
    found: list[str] = []

    def add(path: str) -> None:
        for other in needs[path]:
            add(other)
        if path not in found:
            found.append(path)

    for name in names:
        if name in by_name:  # else it is built into this kernel
            add(by_name[name])
    return [folder / path for path in found]


def entry(name: str, mode: int, content: bytes, number: int, modified: int = 0) -> bytes:
    """One file of a cpio archive in the "newc" form (kernel: Documentation/driver-api/early-userspace)."""
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, modified, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    whole = header + path
    whole += bytes(-len(whole) % 4) + content
    return whole + bytes(-len(whole) % 4)


def initramfs(command: str) -> bytes:
    """The initramfs that runs this shell text with this machine's files as its root."""
    version, _ = kernel()
    device = Path("/").stat().st_dev
    needed = (CHECKOUT, Path(sys.prefix), Path(sys.base_prefix))
    # An overlay shows nothing of other file systems mounted below: those that are needed are bound, read-only.
    binds = [path for path in needed if path.stat().st_dev != device]
    init = INIT.format(
        modules=shlex.quote(str(SYSTEM / "lib/modules")),
        binds="\n".join(
            f"$b mount --bind {shlex.quote(f'/lower{p}')} {shlex.quote(f'/root{p}')}" for p in binds
        ),
    )
    modules = modules_of(version, FIRST_MODULES)
    directories = ("bin", "dev", "proc", "lower", "upper", "root", "modules")
    files: list[tuple[str, int, bytes]] = [(name, 0o040755, b"") for name in directories]
    files.append(("init", 0o100755, init.encode()))
    files.append(("command", 0o100644, command.encode()))
    files.append(("bin/busybox", 0o100755, (SYSTEM / "bin/busybox").read_bytes()))
    files.append(("modules/order", 0o100644, "".join(f"{path.name}\n" for path in modules).encode()))
    files += [(f"modules/{path.name}", 0o100644, path.read_bytes()) for path in modules]
    files.append(("TRAILER!!!", 0, b""))
    archive = b"".join(entry(*file, number) for number, file in enumerate(files, 1))
    return gzip.compress(archive, 1)


def virtiofsd_options(usage: str) -> list[str]:
    """How the virtiofsd that says this to --help is told to share / with the guest."""
    if "--shared-dir" not in usage:
        return IN_C
    return [*IN_RUST, NO_SUBMOUNTS] if NO_SUBMOUNTS in usage else IN_RUST


@contextlib.contextmanager
def _shared(directory: Path) -> Iterator[Path]:
    """virtiofsd on this machine's /; the path of its socket."""
    socket = directory / "virtiofs.sock"
    program = next(path for path in VIRTIOFSD if path.exists())
    usage = subprocess.run([str(program), "--help"], capture_output=True, text=True, check=False).stdout
    options = virtiofsd_options(usage)
    with (directory / "virtiofsd.log").open("w+") as log:
        command = [str(program), f"--socket-path={socket}", *options]
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not socket.exists():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"virtiofsd did not start: {log.read()[-500:]}")
                time.sleep(0.02)
            yield socket
        finally:
            daemon.kill()
            daemon.wait()


def _qemu(image: Path, archive: Path, socket: Path) -> list[str]:
    memory = f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on"
    line = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on"
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"),
        *(
            "-serial",
            "stdio",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            f"{MEMORY_MIB}M",
        ),
        *("-object", memory, "-numa", "node,memdev=memory"),
        *(
            "-chardev",
            f"socket,id=files,path={socket}",
            "-device",
            "vhost-user-fs-pci,chardev=files,tag=host",
        ),
        *("-kernel", str(image), "-initrd", str(archive), "-append", line),
    ]


def run(command: Sequence[str], timeout_s: float, say: Callable[[str], None]) -> int:
    """Run one command in a guest, in the checkout. Its exit code; 124 when it did not end in time.

    `say` gets each line of the console. A guest that ends without the command's exit code (a panic) raises.
    """
    text = COMMAND.format(directory=shlex.quote(str(CHECKOUT)), command=shlex.join(command), exit=EXIT)
    _, image = kernel()
    with tempfile.TemporaryDirectory(prefix="netctl-guest-") as name:
        directory = Path(name)
        archive = directory / "initramfs"
        archive.write_bytes(initramfs(text))
        with _shared(directory) as socket:
            guest = subprocess.Popen(
                _qemu(image, archive, socket),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            late = threading.Event()

            def end() -> None:
                late.set()
                guest.kill()

            timer = threading.Timer(timeout_s, end)
            timer.start()
            code: int | None = None
            try:
                assert guest.stdout is not None
                for line in guest.stdout:
                    if line.startswith(EXIT):
                        code = int(line.removeprefix(EXIT))
                        break
                    say(line.rstrip())
            finally:
                timer.cancel()
                guest.kill()
                guest.wait()
                if guest.stdout is not None:
                    guest.stdout.close()
    if code is not None:
        return code
    if late.is_set():
        return 124
    raise RuntimeError("the guest ended before its command did: see the console above")


if __name__ == "__main__":  # `python tests/kernel/guest.py COMMAND …`: look at something in the guest
    reason = why_not()
    if reason is not None:
        sys.exit(reason)
    sys.exit(run(sys.argv[1:], 600, lambda line: print(line, flush=True)))
