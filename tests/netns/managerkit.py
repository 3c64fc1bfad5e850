"""A member on a host whose network another program manages: systemd-networkd, NetworkManager.

The program runs in the host's namespaces, on a D-Bus of the host's own and without systemd's first process. udev's
entries for the links are written here, because such a program waits until udev has set a link up, as on a machine.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence

from tests.netns.driftkit import SEGMENT, Member
from tests.support.hosts import Program
from tests.support.patience import wait_for

WITHIN_S = 1.0
"""What is promised, from the kernel's word to all of it set, as the agent itself has measured it."""
TRIES = 3
"""A busy machine holds up one or the other."""
NEEDED = ("dbus-daemon", "bridge")
CARD_ADDRESS = "203.0.113.2/24"

_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/>
    <allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""
_START = """mount -t sysfs sys /sys
mkdir -p /run/udev/data
for link in /sys/class/net/*; do echo I:1 > /run/udev/data/n$(cat $link/ifindex); done
exec "$@"
"""
_OURS = f"""for link in nctl0 {SEGMENT}; do
  ip -o address show dev $link scope global
  ip -o link show dev $link up
done
ip -6 -o address show dev {SEGMENT} scope link
ip route show proto 201
ip -6 route show proto 201
bridge fdb show dev {SEGMENT}
for key in ipv4/conf/{SEGMENT}/rp_filter ipv6/conf/{SEGMENT}/addr_gen_mode; do cat /proc/sys/net/$key; done
"""


def missing(*programs: str) -> str | None:
    """Which programs are not here, in words; None when all are."""
    absent = [program for program in (*NEEDED, *programs) if shutil.which(program) is None]
    return f"missing: {', '.join(absent)}" if absent else None


class Managed:
    """A member with a network card `eth0`, and an agent whose search for drift comes too late to help."""

    def __init__(self) -> None:
        self.member = Member()
        self.host = self.member.host
        self.running: Program | None = None
        self._watches: list[Program] = []
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        host = self.host
        self.member.start_agent("--drift-every", "1800")
        self.member.netctl("apply", "--yes")
        host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
        host.run("ip", "link", "set", "peer0", "up")
        host.run("mkdir", "-p", "/run/dbus")
        host.run("sh", "-c", "cat > /run/bus.conf", text=_BUS)
        host.run("dbus-daemon", "--config-file=/run/bus.conf", "--fork")
        wait_for("the segment has its link-local address", lambda: "fe80:" in self.now())
        self.ours = self.now()
        assert "10.8.0.1/32" in self.ours
        assert "unreachable" in self.ours
        assert "192.168.77.0/24 dev nctl0" in self.ours

    def close(self) -> None:
        """End the host and all in it."""
        for program in (*self._watches, self.running):
            if program is not None and program.returncode is None:
                program.kill()
                program.communicate()
        self.member.close()

    def write(self, name: str, text: str) -> None:
        """A file, readable for root alone."""
        self.host.run("sh", "-c", 'umask 077; mkdir -p "${1%/*}"; cat > "$1"', "sh", name, text=text)

    def start(self, argv: Sequence[str], ready: Callable[[], bool]) -> None:
        """Start the program anew, and wait until it is ready."""
        if self.running is not None:
            self.running.terminate()
            self.running.communicate()
        self.running = running = self.host.start("unshare", "--mount", "sh", "-c", _START, "sh", *argv)

        def true() -> bool:
            assert running.poll() is None, running.communicate()[0]
            return ready()

        wait_for(f"{argv[0]} is ready", true)

    def has_its_address(self) -> bool:
        """Whether the card has the address that the program sets."""
        return CARD_ADDRESS in self.host.run("ip", "address", "show", "dev", "eth0")

    def now(self) -> str:
        """What is ours on the host, without what a tunnel's link does not need (a link-local address)."""
        lines = (" ".join(line.split()) for line in self.host.run("sh", "-c", _OURS).splitlines())
        # A link-local address is tentative for a second.
        return "\n".join(sorted(line.replace(" tentative", "") for line in lines))

    def restored(self) -> int:
        """How often the agent has put something back."""
        count: int = self.member.status()["routes_restored"]
        return count

    def quiet(self) -> None:
        """Wait until all is there and no repair comes."""
        counts = [-1]

        def true() -> bool:
            counts.append(self.restored())
            return counts[-1] == counts[-2] and self.now() == self.ours

        wait_for("all is back", true, every_s=1.0)

    def gap_s(self, take: Callable[[], object]) -> float:
        """After which all was back that this took away, as the agent says."""
        before = self.restored()
        take()
        wait_for("it is counted", lambda: self.restored() > before)
        self.quiet()
        found = re.search(r"were taken away .* within ([\d.]+) s", str(self.member.status()["conditions"]))
        assert found is not None
        return float(found[1])

    def least_gap_s(self, what: str, take: Callable[[], object]) -> float:
        """The shortest of some."""
        gaps = [self.gap_s(take) for _ in range(TRIES)]
        print(f"{what}: {', '.join(f'{gap * 1000:.0f}' for gap in gaps)} ms")
        return min(gaps)

    def watch(self) -> Program:
        """Write down what is taken away from now on, for `gone`."""
        self._watches.append(self.host.start("ip", "monitor", "route", "address"))
        return self._watches[-1]

    @staticmethod
    def gone(watch: Program) -> list[str]:
        """Which of our routes and addresses were taken away."""
        watch.terminate()
        lines = [line for line in watch.communicate()[0].splitlines() if line.startswith("Deleted")]
        return [line for line in lines if "proto 201" in line or "nctl0" in line or SEGMENT in line]
