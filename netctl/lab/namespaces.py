"""Hosts of the lab as Linux namespaces: one holder process that owns the lab, and nodes inside it.

The holder is PID 1 of its own PID namespace (and, for an ordinary user, root of a user namespace). It reads a
pipe whose other end this process holds: when this process ends for any reason, the pipe closes, the holder
exits, and the kernel kills every process of the lab and removes its namespaces. A lab that outlives this
process (`detached`) ends by `Holder.destroy` instead.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netctl.model.errors import EngineError, LocalError

START_TIMEOUT_S = 60.0
"""Making namespaces takes milliseconds; even a busy machine that needs longer than this is stuck."""
COMMAND_TIMEOUT_S = 120.0
"""A set-up command of the lab takes 1 to 2 s at most; on a busy machine some have taken 30 s."""
END_TIMEOUT_S = 60.0
"""Killed processes end within milliseconds, if they get a core at all."""

PACKAGES: Mapping[str, str] = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    "ping": "iputils-ping",
    "hostname": "hostname",
}
"""Programs that the lab runs, and their Debian packages."""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Includes sbin, where ip and nft are: ordinary users on Debian do not have it in their PATH."""

# accept_dad is off: the lab has no duplicate addresses, and a router forwards no IPv6 until their detection ends.
# SIGCHLD is ignored across exec, so the kernel reaps orphans for a PID 1 that never waits
# (a trap of sh does not: dash leaves SIGCHLD alone).
_HOLDER = """
set -e
mount -t tmpfs -o mode=755 lab /run
for scope in all default; do echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_dad; done 2> /dev/null || true
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
exec env --ignore-signal=CHLD {wait} > /dev/null 2>&1
"""

# Mounts cover whole directories, not single files: a mount over a file is lost when somebody renames another file
# over it, and writers then change the machine's file. Directories are linked: copies would be megabytes per host.
# If a place has a `.machine` already, it is the source: links to its links would point at themselves.
OWN_PLACES = """
own_place() {
  if [ -d "$1/.machine" ]; then from="$1/.machine"; else from="$1"; fi
  mount -t tmpfs -o mode=755 own /mnt
  mkdir /mnt/.machine
  mount --rbind "$from" /mnt/.machine
  mount -o remount,bind,ro /mnt/.machine 2> /dev/null || [ ! -w /mnt/.machine ]
  mount --move /mnt "$1"
  cd "$1"
  find .machine -mindepth 1 -maxdepth 1 -type d -exec ln -s -t . {} +
  find .machine -mindepth 1 -maxdepth 1 '(' -type f -o -type l ')' -exec cp -P -p -t . {} + 2> /dev/null || true
}
own_places() {
  for place in /etc /var/lib; do own_place "$place"; done
  cd /
  rm -rf /etc/netctl /var/lib/netctl /var/lib/netctl-mediator /etc/hosts
  mkdir /etc/netctl /var/lib/netctl /var/lib/netctl-mediator
  printf '127.0.0.1\\tlocalhost\\n::1\\tlocalhost ip6-localhost\\n' > /etc/hosts
}
"""
"""Shell functions: `own_places` gives a mount namespace its own /etc and /var/lib.

Files are copies, directories are read-only links to the machine's, netctl's directories are new and empty. Later
changes of the machine's files, renames included, do not reach the namespace, and writes there do not reach the machine.
"""

_NODE = f"""
set -e
exec 2>&1
{OWN_PLACES}
mount -t tmpfs -o mode=755 node /run
mkdir -p /run/lab/etc /run/lab/state /run/netctl /run/wireguard
chmod 700 /run/lab/state
own_places
cat > /etc/hosts
mount -t sysfs sys /sys 2> /dev/null || true
hostname "$1"
for scope in all default; do echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_dad; done 2> /dev/null || true
ip link set lo up
echo $$
exec sleep infinity < /dev/null > /dev/null 2>&1
"""


def environment() -> dict[str, str]:
    """The environment for programs of the lab."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}", "LC_ALL": "C.UTF-8"}


def check_machine() -> None:
    """Check that a lab can run here. Raises LocalError with one line that says what to do."""
    path = environment()["PATH"]
    missing = sorted({package for tool, package in PACKAGES.items() if shutil.which(tool, path=path) is None})
    if missing:
        raise LocalError(
            f"the lab needs programs that are not here: sudo apt-get install {' '.join(missing)}"
        )
    if not Path("/dev/net/tun").exists():
        raise LocalError("the lab needs /dev/net/tun: `sudo modprobe tun`, or start the container with it")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise LocalError("no access to /dev/net/tun as this user: run it as root (`sudo make demo`)")
    probe = subprocess.run(
        [*_unshare(), "true"], env=environment(), capture_output=True, text=True, check=False, timeout=30
    )
    if probe.returncode != 0:
        if os.geteuid() == 0:
            said = probe.stderr.strip().splitlines()
            raise LocalError(f"cannot make namespaces here ({said[-1] if said else 'unshare failed'})")
        raise LocalError(
            "this machine does not let ordinary users make namespaces: run it as root (`sudo make demo`)"
        )


def _unshare() -> list[str]:
    command = [
        "unshare",
        "--fork",
        "--pid",
        "--kill-child",
        "--mount",
        "--net",
        "--uts",
        "--ipc",
        "--mount-proc",
    ]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    return command


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that owns a lab. `pid`: its PID; `parent`: the PID of the `unshare` process that made it."""

    pid: int
    parent: int
    started: int
    """Start time of `pid` in clock ticks since boot: the kernel may give the PID to another process later."""
    lifeline: int | None = None
    """Our end of the holder's pipe; None: detached."""

    @classmethod
    def start(cls, *, detached: bool = False) -> Holder:
        """Make the namespaces. Raises EngineError when the machine refuses."""
        script = _HOLDER.format(wait="sleep infinity" if detached else "cat")
        read_end, write_end = os.pipe()
        try:
            process = subprocess.Popen(
                [*_unshare(), "sh", "-c", script],
                stdin=subprocess.DEVNULL if detached else read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
                start_new_session=True,
            )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        if detached:
            os.close(write_end)
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr:
            ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
            if not ready or process.stdout.readline() != b"ready\n":
                process.kill()
                said = process.stderr.read().decode(errors="replace").strip().splitlines()
                process.wait()
                raise EngineError(f"cannot make the lab's namespaces: {said[-1] if said else 'no answer'}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pid = int(children[0])
        # The child continues on purpose; without this, the process object warns about it.
        process.returncode = 0
        return cls(pid, process.pid, _start_time(pid) or 0, None if detached else write_end)

    @property
    def alive(self) -> bool:
        """Whether the holder still runs."""
        return _start_time(self.pid) == self.started

    def destroy(self) -> None:
        """Kill everything in the lab and wait until it is gone."""
        if self.lifeline is not None:
            with contextlib.suppress(OSError):
                os.close(self.lifeline)
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(self.pid)
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    # PID 1 ends only after every other process of its namespace.
                    select.select([descriptor], [], [], END_TIMEOUT_S)
                finally:
                    os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.parent, 0)

    def enter(self, *namespaces: str) -> list[str]:
        """The beginning of a command line: runs the command after it in the lab's namespaces."""
        command = ["nsenter", "--target", str(self.pid), "--pid", "--mount", "--net", "--uts", "--ipc"]
        if os.geteuid() != 0:
            command += ["--user", "--preserve-credentials"]
        return [*command, *namespaces, "--"]

    def run(self, argv: Sequence[str], stdin: str = "") -> str:
        """Run a set-up command in the lab itself; returns its standard output. Raises EngineError if it fails."""
        return run_checked([*self.enter(), *argv], stdin)

    def add_node(self, name: str, hosts: str) -> Node:
        """Make a new host with its own network, mounts, hosts file and host name. Raises EngineError."""
        # sh gives a background job /dev/null as its input by default: pass our input by fd 3.
        start = 'exec 3<&0; setsid unshare --mount --net --uts sh -c "$1" node "$2" <&3 3<&- &'
        said = self.run(["sh", "-c", start, "keeper", _NODE, name], hosts).strip()
        if not said.isdigit():
            raise EngineError(
                f"cannot make the lab host {name}: {said.splitlines()[-1] if said else 'no answer'}"
            )
        return Node(self, name, int(said))


@dataclass(frozen=True, slots=True)
class Node:
    """A host in the lab. `pid`: PID, inside the lab, of the process that keeps its namespaces."""

    holder: Holder
    name: str
    pid: int
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command line for outside the lab that runs `argv` on this host."""
        inside = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--uts", "--"]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return [*self.holder.enter(), *inside, "env", *variables, *argv]

    def path(self, inside: str) -> Path:
        """The path, outside the lab, of a file that this host has at the absolute path `inside`."""
        return Path(f"/proc/{self.holder.pid}/root/proc/{self.pid}/root{inside}")

    def run(self, argv: Sequence[str], stdin: str = "") -> str:
        """Run a command on this host; returns its standard output. Raises EngineError if it fails."""
        return run_checked(self.command(argv), stdin)

    def attempt(
        self, argv: Sequence[str], *, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this host; any exit status is allowed."""
        return subprocess.run(
            self.command(argv),
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def popen(self, argv: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command on this host with pipes to its input and output."""
        return subprocess.Popen(
            self.command(argv),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def spawn(self, argv: Sequence[str], log: str) -> int:
        """Start a service on this host that outlives us, with output to `log`. Returns its PID inside the lab."""
        script = 'setsid "$@" < /dev/null >> "$0" 2>&1 & echo $!'
        return int(self.run(["sh", "-c", script, log, *argv]))

    def write(self, path: str, text: str) -> None:
        """Write a file on this host."""
        self.run(["sh", "-c", 'cat > "$0"', path], text)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process of the lab; no error if the process is gone."""
        self.attempt(["kill", f"-{int(number)}", str(pid)])

    def running(self, pid: int) -> bool:
        """Whether a process of the lab still runs."""
        return self.attempt(["kill", "-0", str(pid)]).returncode == 0


def run_checked(argv: Sequence[str], stdin: str = "") -> str:
    """Run a command to its end; returns its standard output. Raises EngineError with its output if it fails."""
    try:
        done = subprocess.run(
            argv,
            env=environment(),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"the lab waited {COMMAND_TIMEOUT_S:.0f} s in vain for: {_what(argv)}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise EngineError(f"{_what(argv)}: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout


def _what(argv: Sequence[str]) -> str:
    """The command line without the part that enters the namespaces, for messages."""
    words = list(argv)
    while "--" in words:
        words = words[words.index("--") + 1 :]
    return " ".join(words[:6]).split("\n")[0]


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None: no such process, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
