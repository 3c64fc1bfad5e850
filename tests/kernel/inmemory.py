"""A guest under QEMU that can sleep: Debian's cloud kernel with netctl and what netctl needs in its initramfs.

The guest of `tests.kernel.guest` cannot: its files come over virtiofs, which refuses to suspend. This one has no disk
and shares no files. It has one network card, on a tap of whoever starts it, and takes commands on a serial line.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import queue
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kernel import guest
from tests.support.patience import BUSY_S, wait_for

MEMORY_MIB = 1024
"""The archive and the files made of it are in memory together for a moment, 150 MiB each."""
PROGRAMS = ("nft", "ping")
"""Of this machine. All others are busybox's, which knows another `ping` by this name."""
MODULES = ("virtio_pci", "virtio_net", "rtc_cmos", "tun", "wireguard", "dummy", "vxlan", "unix", "af_packet")
"""With what they stand on; of the folders below all modules, since nft and the kernel ask for them by aliases."""
MODULE_FOLDERS = ("kernel/net/netfilter", "kernel/net/ipv4", "kernel/net/ipv6")
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "tkinter",
    "site-packages",
    "turtledemo",
    "pydoc_data",
}
"""Folders of Python and of packages that no agent imports."""
_LEFT_OUT = re.compile(r"^config-|\.opt-[12]\.pyc$")
"""The static library of Python, and what `python -O` would run."""
BUSYBOX = "/busybox"
DONE = "<<done>>"
AGAIN = "<<again>>"
"""The serial line lost characters of a command, as it does for a moment after a wake."""
LINE_ENDS_S = 10.0
"""How often an empty line is sent while the guest says nothing: it ends a command whose own end was lost."""

INIT = """#!/busybox sh
/busybox mkdir -p /proc /sys /dev /run /tmp /applets /bin
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sysfs /sys
/busybox mount -t devtmpfs devtmpfs /dev
/busybox --install -s /applets
export PATH={path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/applets HOME=/ LANG=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 {variables}
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
[ -e /bin/sh ] || ln -s /busybox /bin/sh
echo /applets/modprobe > /proc/sys/kernel/modprobe
modprobe virtio_pci
modprobe virtio_net
modprobe rtc_cmos
modprobe tun
hostname {name}
ip link set lo up
stty -F /dev/ttyS1 raw -echo
exec < /dev/ttyS1 > /dev/ttyS1 2>&1
echo "{done} 0"
while read -r length line; do
  [ -n "$length" ] || continue
  if [ "$length" != "${{#line}}" ]; then
    echo "{again}"
    continue
  fi
  eval "$line"
  echo "{done} $?"
done
"""


def why_not() -> str | None:
    """Why this machine cannot run the guest; None when it can."""
    if shutil.which(guest.QEMU) is None:
        return f"no {guest.QEMU}; `scripts/setup kernel` installs it"
    if not (guest.SYSTEM.parent / "ready").exists():
        return "no guest kernel; `scripts/setup kernel` fetches Debian's"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"no {', '.join(missing)} on this machine" if missing else None


class Archive:
    """A cpio archive of files of this machine, at the same places and with their times, so Python compiles nothing."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []
        self._there: set[str] = {"/"}
        self._linked: set[Path] = set()

    def put(self, place: str, content: bytes, mode: int = stat.S_IFREG | 0o755, modified: int = 0) -> None:
        """One file, folder or symbolic link, with the folders above it."""
        if place in self._there:
            return
        above = os.path.dirname(place)
        if above not in self._there:
            self.put(above, b"", stat.S_IFDIR | 0o755)
        self._there.add(place)
        number = len(self._entries) + 1
        self._entries.append(guest.entry(place.lstrip("/"), mode, content, number, modified))

    def add(self, path: Path) -> None:
        """A file, or a folder with all that is in it, and whatever its symbolic links lead to."""
        here = Path("/")
        parts = path.parts[1:]
        for index, part in enumerate(parts):
            here = here / part
            if here.is_symlink():
                target = os.readlink(here)
                self.put(str(here), target.encode(), stat.S_IFLNK | 0o777)
                beyond = Path(os.path.normpath(here.parent / target), *parts[index + 1 :])
                self.add(beyond)
                return
        if path.is_dir():
            for entry in sorted(path.iterdir()):
                if entry.name not in LEFT_OUT and _LEFT_OUT.search(entry.name) is None:
                    self.add(entry)
            return
        if not path.exists():
            return  # a link to nothing
        found = path.stat()
        content = path.read_bytes()
        self.put(str(path), content, stat.S_IFREG | stat.S_IMODE(found.st_mode), int(found.st_mtime))
        if content[:4] == b"\x7fELF":
            self._add_libraries(path)

    def _add_libraries(self, path: Path) -> None:
        """The shared libraries that an ELF file needs, as this machine's loader finds them."""
        said = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
        for library in (Path(os.path.normpath(found)) for found in re.findall(r"(/\S+) \(0x", said)):
            if library not in self._linked:
                self._linked.add(library)
                self.add(library)

    def write(self, path: Path) -> None:
        """Finish, uncompressed: emulated processors take longer to unpack than QEMU to load."""
        self.put("/TRAILER!!!", b"", 0)
        with path.open("wb") as file:
            file.writelines(self._entries)


def _add_python(archive: Archive) -> None:
    """This interpreter, its environment, and the packages that an agent needs."""
    for program in {
        Path(sys.executable),
        Path(sys.base_prefix, "bin", Path(os.path.realpath(sys.executable)).name),
    }:
        archive.add(program)
    if sys.prefix != sys.base_prefix:
        archive.add(Path(sys.prefix, "pyvenv.cfg"))
    archive.add(Path(sysconfig.get_path("stdlib")))
    locked = (guest.CHECKOUT / "requirements/member.txt").read_text()
    names = re.findall(r"^([a-z0-9.-]+)==", locked, re.MULTILINE)
    for name in ["netctl", *names]:
        try:
            files = importlib.metadata.distribution(name).files or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another Python or another system
        for file in files:
            path = Path(os.path.normpath(str(file.locate())))
            if path.exists() and not LEFT_OUT & set(file.parts[:-1]) - {"site-packages"}:
                archive.add(path)
    for folder in ("netctl", "schemas"):
        archive.add(guest.CHECKOUT / folder)


def _add_modules(archive: Archive) -> None:
    version, _ = guest.kernel()
    folder = guest.SYSTEM / "lib/modules" / version
    chosen = guest.modules_of(version, MODULES)
    for name in MODULE_FOLDERS:
        chosen += guest.modules_of(
            version, [path.name.partition(".")[0] for path in (folder / name).rglob("*.ko*")]
        )
    for path in dict.fromkeys([*chosen, *folder.glob("modules.*")]):
        archive.put(
            f"/lib/modules/{version}/{path.relative_to(folder)}", path.read_bytes(), stat.S_IFREG | 0o644
        )


def initramfs(
    path: Path, name: str, variables: Mapping[str, str], files: Mapping[str, tuple[int, bytes]]
) -> None:
    """Write the archive. `variables`: of the environment in the guest; `files`: mode and content by place."""
    archive = Archive()
    for place in ("/bin", "/lib", "/lib64", "/sbin"):
        if os.path.islink(place):
            archive.put(place, os.readlink(place).encode(), stat.S_IFLNK | 0o777)
    _add_python(archive)
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found is not None
        archive.add(Path(found))
    _add_modules(archive)
    archive.put(BUSYBOX, (guest.SYSTEM / "bin/busybox").read_bytes())
    for place, (mode, content) in files.items():
        archive.put(place, content, stat.S_IFREG | mode)
    init = INIT.format(
        path=Path(sys.executable).parent,
        name=name,
        done=DONE,
        again=AGAIN,
        variables=" ".join(f"{key}={shlex.quote(value)}" for key, value in variables.items()),
    )
    archive.put("/init", init.encode())
    archive.write(path)


class Guest:
    """A running guest, and the shell in it."""

    def __init__(self, process: subprocess.Popen[str], control: Path, console: Path) -> None:
        self._process, self._console = process, console
        self._command = ""
        self._heard_at = 0.0
        """When the last line of output came."""
        self._lines: queue.Queue[tuple[float, str] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._monitor = socket.socket(socket.AF_UNIX)
        wait_for("QEMU listens", lambda: self._connected(control))
        self._monitor.settimeout(BUSY_S)
        self._said = self._monitor.makefile("r", encoding="utf-8")
        self._events: dict[str, float] = {}
        self._said.readline()  # its greeting
        self._ask("qmp_capabilities")
        self._end()

    def close(self) -> None:
        """Once QEMU has ended: close all pipes to it."""
        self._reader.join()
        self._said.close()
        self._monitor.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _connected(self, control: Path) -> bool:
        try:
            self._monitor.connect(str(control))
        except OSError:
            return False
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put((time.time(), line.rstrip()))
        self._lines.put(None)

    def _next_line(self) -> tuple[float, str]:
        found: tuple[float, str] | None = None
        for _ in range(round(BUSY_S / LINE_ENDS_S)):
            try:
                found = self._lines.get(timeout=LINE_ENDS_S)
                break
            except queue.Empty:
                self._send("\n")
        assert found is not None, f"the guest says nothing more:\n{self.console()}"
        return found

    def _end(self) -> tuple[list[str], int, float]:
        """Output, exit code and Unix time of the end of the command under way."""
        said: list[str] = []
        while True:
            at, line = self._next_line()
            if line == AGAIN:
                self._type(self._command)
                continue
            if line.startswith(DONE):
                return said, int(line.removeprefix(DONE)), at
            said.append(line)
            self._heard_at = at

    def attempt(self, command: str) -> tuple[int, str]:
        """Run one line of shell; its exit code and what it said."""
        self._type(command)
        said, code, _ = self._end()
        return code, "\n".join(said)

    def run(self, command: str) -> str:
        """Run one line of shell that must succeed."""
        code, said = self.attempt(command)
        assert code == 0, f"{command}: {code}: {said}\n{self.console()}"
        return said

    def ahead_s(self) -> float:
        """By how much its wall clock is ahead of this machine's; it counts suspend in whole seconds."""
        said = self.run("python3 -c 'import time; print(time.time(), flush=True)'")
        return float(said) - self._heard_at

    def console(self) -> str:
        """The end of what the kernel said."""
        return self._console.read_text(errors="replace")[-3000:]

    def _type(self, command: str) -> None:
        self._command = command
        self._send(f"{len(command)} {command}\n")

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _ask(self, command: str) -> None:
        self._monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        self._hear(lambda told: "return" in told)

    def _hear(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        while True:
            line = self._said.readline()
            assert line, f"QEMU ended:\n{self.console()}"
            told = json.loads(line)
            if "event" in told:
                stamp = told["timestamp"]
                self._events[told["event"]] = stamp["seconds"] + stamp["microseconds"] / 1e6
            if wanted(told):
                return

    def sleep(self, seconds: float, meanwhile: AbstractContextManager[object]) -> Woken:
        """Suspend to memory (ACPI S3), and wake up after so many seconds of sleep, spent in `meanwhile`."""
        self._type("echo mem > /sys/power/state")
        self._hear(lambda told: told.get("event") == "SUSPEND")
        with meanwhile:
            time.sleep(seconds)
        self._ask("system_wakeup")
        if "WAKEUP" not in self._events:
            self._hear(lambda told: told.get("event") == "WAKEUP")
        woken = self._events.pop("WAKEUP")
        said, code, at = self._end()
        assert code == 0, f"no sleep: {said}\n{self.console()}"
        return Woken(woken - self._events["SUSPEND"], woken, at)


@dataclass(frozen=True)
class Woken:
    """How long it slept, the Unix time at which QEMU woke it, and the one at which a program in it ran again."""

    slept_s: float
    at: float
    running_at: float


def qemu(directory: Path, archive: Path, tap: str) -> list[str]:
    """QEMU's command line. Its standard input and output are the shell; one processor, so that waking takes one."""
    _, image = guest.kernel()
    line = "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on"
    return [
        *(guest.QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", f"{MEMORY_MIB}M"),
        *("-qmp", f"unix:{directory}/control,server=on,wait=off"),
        *("-serial", f"file:{directory}/console", "-serial", "stdio"),
        *(
            "-netdev",
            f"tap,id=n0,ifname={tap},script=no,downscript=no",
            "-device",
            "virtio-net-pci,netdev=n0,romfile=",
        ),
        *("-kernel", str(image), "-initrd", str(archive), "-append", line),
    ]
