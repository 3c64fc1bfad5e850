"""Machines with a real systemd: booted by systemd-nspawn, joined by one segment, gone with the test.

A machine is an overlay over a cached root file system, so it starts as that distribution does and what it writes is
its own. Its network is a namespace that the test makes; switching the machine off takes that along, as the cable's
other end stays while a kernel's routes and rules do not.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from netctl.lab.namespaces import Holder

BOOT_TIMEOUT_S = 120.0
"""It takes half a second alone, and a busy machine is no fault of what is tested."""
RUN_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 120.0
POLL_S = 0.1
CGROUPS = "/sys/fs/cgroup"
SEGMENT_PREFIX = 24

# A mount namespace of its own holds all mounts: they go with the process. The cgroup2 tree is mounted in place of
# whatever hierarchy this machine has, for systemd in there wants the unified one.
_START = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$3"
echo $$ > "/sys/fs/cgroup/$3/cgroup.procs"
root=$2/root; name=$4; network=$5; shift 5
exec setpriv --pdeathsig KILL systemd-nspawn --quiet --boot --register=no --keep-unit --machine="$name" \
  --directory="$root" --network-namespace-path="$network" --bind=/dev/net/tun \
  --capability=CAP_NET_ADMIN,CAP_NET_RAW --resolv-conf=off --timezone=off --link-journal=no --console=pipe "$@"
"""
_SWEEP = """
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 0
find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} + 2> /dev/null
true
"""


def _apart(script: str) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "machine"]


def eventually(what: str, holds: Callable[[], bool], within_s: float = RUN_TIMEOUT_S) -> float:
    """Seconds until it held. AssertionError that names `what`, after `within_s`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - began


class Segment:
    """One Ethernet segment in namespaces of its own; they end with this process, however it ends."""

    def __init__(self) -> None:
        self.holder = Holder.start()
        self._nodes = 0
        self.holder.run(["ip", "link", "add", "lan", "type", "bridge"])
        self.holder.run(["ip", "link", "set", "lan", "up"])

    def network(self) -> tuple[int, str]:
        """A new network namespace without a cable: its keeper within the holder, and a path to it."""
        self._nodes += 1
        node = self.holder.add_node(f"m{self._nodes}", "")
        return node.pid, f"/proc/{self.holder.pid}/root/proc/{node.pid}/ns/net"

    def plug(self, keeper: int, address: str) -> None:
        """A cable into that namespace; its device is `eth0`, with that address."""
        port = f"p{keeper}"
        self.holder.run(
            ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(keeper)]
        )
        inside = ["nsenter", "--target", str(keeper), "--net", "--"]
        self.holder.run([*inside, "ip", "address", "add", f"{address}/{SEGMENT_PREFIX}", "dev", "eth0"])
        self.holder.run([*inside, "ip", "link", "set", "eth0", "up"])
        self.holder.run(["ip", "link", "set", port, "master", "lan", "up"])

    def unplug(self, keeper: int) -> None:
        """Take the cable out, and let the namespace go."""
        self.holder.run(["ip", "link", "delete", f"p{keeper}"])
        self.holder.run(["kill", "-9", str(keeper)])

    def close(self) -> None:
        """End everything in it."""
        self.holder.destroy()


class Machine:
    """A machine: `boot`, `run`, `write`, `journal`, `kill`, `power_off`."""

    def __init__(
        self, name: str, lower: Path, place: Path, segment: Segment, address: str, bound: Mapping[str, Path]
    ) -> None:
        """`lower`: the root file system it starts from; `place`: an empty directory for what it writes.

        `bound`: directories of this machine that it sees, to read, by their place in there.
        """
        self.name = name
        self.address = address
        self._lower = lower
        self._place = place
        self._segment = segment
        self._bound = bound
        self._cgroup = f"netctl-{name}-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._keeper = 0
        for part in ("upper/etc", "work", "root"):
            (place / part).mkdir(parents=True)
        (place / "upper/etc/hostname").write_text(f"{name}\n")
        (place / "upper/etc/hosts").write_text(f"127.0.0.1 localhost {name}\n")
        (place / "upper/etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")

    def boot(self, *, cable: bool = True) -> None:
        """Switch on and wait until systemd has started what it starts. Without `cable`, `plug` it later."""
        self._keeper, network = self._segment.network()
        if cable:
            self.plug()
        options = [f"--bind-ro={path}:{where}" for where, path in self._bound.items()]
        with (self._place / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [*_apart(_START), self._lower, self._place, self._cgroup, self.name, network, *options],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
                start_new_session=True,
            )
        eventually(f"{self.name} has a systemd", self._has_leader, BOOT_TIMEOUT_S)
        eventually(f"{self.name} has booted", self._has_booted, BOOT_TIMEOUT_S)

    def plug(self) -> None:
        """Give it its cable."""
        self._segment.plug(self._keeper, self.address)

    def _has_leader(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} did not start: {self.console()}"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].endswith(b"systemd"):
                    self._leader = int(child)
                    return True
        return False

    def _has_booted(self) -> bool:
        done = self.attempt(["systemctl", "is-system-running"])
        return done.stdout.strip() in ("running", "degraded")

    def attempt(self, argv: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, whatever its exit status."""
        command = ["nsenter", "--target", str(self._leader), "--all", "--root", "--wd", "--", *argv]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/root",
        }
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, env=environment
        )

    def run(self, command: str, stdin: str = "") -> str:
        """Its standard output. AssertionError with what it said when it fails."""
        done = self.attempt(["sh", "-ec", command], stdin)
        assert done.returncode == 0, (
            f"{self.name}# {command}\n{done.stdout}{done.stderr}(exit {done.returncode})"
        )
        return done.stdout

    def works(self, command: str) -> bool:
        """Whether a command succeeds."""
        return self.attempt(["sh", "-ec", command]).returncode == 0

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file in it."""
        self.run(f"install -D -m {mode:o} /dev/stdin {shlex.quote(path)}", text)

    def journal(self, unit: str) -> str:
        """What a unit has said, for a failure's message."""
        return self.run(f"journalctl --no-pager --output cat --lines 60 --unit {shlex.quote(unit)}")

    def console(self) -> str:
        """The last lines of its console."""
        return (self._place / "console").read_text(errors="replace")[-2000:]

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as `systemctl show` says it."""
        return self.run(f"systemctl show --value --property {name} {shlex.quote(unit)}").strip()

    def kill(self, unit: str) -> int:
        """kill -9 a unit's main process, which must run. Its PID."""
        pid = int(self.property(unit, "MainPID"))
        assert pid > 0, f"{unit} has no process\n{self.journal(unit)}"
        self.run(f"kill -9 {pid}")
        return pid

    def power_off(self) -> None:
        """Orderly; what it wrote stays for the next `boot`."""
        assert self._process is not None
        self.attempt(["systemctl", "poweroff"])
        self._process.wait(STOP_TIMEOUT_S)
        self._gone()

    def close(self) -> None:
        """End it at once, if it runs."""
        if self._process is None:
            return
        if self._leader and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)  # PID 1 of a namespace takes all others along
        try:
            self._process.wait(STOP_TIMEOUT_S / 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._gone()

    def _gone(self) -> None:
        self._process, self._leader = None, 0
        self._segment.unplug(self._keeper)
        subprocess.run([*_apart(_SWEEP), self._cgroup], check=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def segment() -> Iterator[Segment]:
    """A segment for a test."""
    made = Segment()
    try:
        yield made
    finally:
        made.close()
