"""systemd-networkd itself beside netctl: what it takes away is back at once, and its settings prevent it."""

from __future__ import annotations

import pwd
from collections.abc import Iterator

import pytest

from tests.netns.driftkit import SEGMENT
from tests.netns.managerkit import CARD_ADDRESS, TRIES, WITHIN_S, Managed, missing
from tests.support.hosts import needs_namespaces
from tests.support.patience import wait_for

NETWORKD = "/usr/lib/systemd/systemd-networkd"
USER = "systemd-network"
"""networkd started as root becomes this user, or does not start."""

ONE_LINK = f"[Match]\nName=eth0\n\n[Network]\nAddress={CARD_ADDRESS}\nGateway=203.0.113.1\n"
EVERY_LINK = "[Match]\nName=*\n\n[Network]\nDHCP=yes\n"
"""For all links that no earlier file matches."""
KEEP = "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
"""The file networkd.conf.d/netctl.conf that docs/coexistence.md names."""
UNMANAGED = "[Match]\nName=nctl* nseg*\n\n[Link]\nUnmanaged=yes\n"
"""The file network/05-netctl.network that docs/coexistence.md names."""
RULE = ("fwmark", "0x7", "lookup", "77")
"""A policy rule that another program has set; netctl has none."""


def why_not() -> str | None:
    """Why networkd cannot run here; None when it can."""
    if (said := missing(NETWORKD, "networkctl", "busctl")) is not None:
        return said
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return f"no user {USER}"
    return None


pytestmark = [
    pytest.mark.netns,
    needs_namespaces,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


class Networkd(Managed):
    """A member beside networkd."""

    def __init__(self, every_link: str = "", settings: str = "", unmanaged: str = "") -> None:
        super().__init__()
        self.host.run("rm", "-rf", "/etc/systemd")  # a link to the machine's directory
        self.host.run("mkdir", "-p", "/run/systemd")
        self.index = self.host.run("cat", "/proc/net/dev_snmp6/eth0").split()[1]
        self.configure(ONE_LINK)
        if every_link:
            self.write("/etc/systemd/network/20-test.network", every_link)
        if settings:
            self.write("/etc/systemd/networkd.conf.d/netctl.conf", settings)
        if unmanaged:
            self.write("/etc/systemd/network/05-netctl.network", unmanaged)
        self.host.run("chmod", "-R", "a+rX", "/etc/systemd")

    def configure(self, network: str) -> None:
        """Write its file for links."""
        self.write("/etc/systemd/network/10-test.network", network)
        self.host.run("chmod", "-R", "a+rX", "/etc/systemd")

    def start_networkd(self) -> None:
        """Start it anew; afterwards it has configured its link."""
        # networkd looks itself up in /proc, and is not among the host's processes (`Host.start`).
        self.start(["unshare", "--mount-proc", NETWORKD], self.configured)

    def configured(self) -> bool:
        return self.has_its_address() and '"configured"' in self.said("AdministrativeState")

    def said(self, what: str) -> str:
        """A property of eth0, as networkd says it."""
        name, path = "org.freedesktop.network1", f"/org/freedesktop/network1/link/_3{self.index}"
        return self.host.run("busctl", "get-property", name, path, f"{name}.Link", what, check=False)

    def networkctl(self, *arguments: str) -> None:
        self.host.run("networkctl", *arguments)

    def least_of_command_s(self, *arguments: str) -> float:
        """The shortest gap after some calls of networkctl."""
        return self.least_gap_s(" ".join(arguments), lambda: self.networkctl(*arguments))


def beside(every_link: str = "") -> Iterator[Networkd]:
    one = Networkd(every_link)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def one_link() -> Iterator[Networkd]:
    yield from beside()


@pytest.fixture(scope="module")
def every_link() -> Iterator[Networkd]:
    yield from beside(EVERY_LINK)


def test_one_configured_link_costs_the_routes_without_a_link(one_link: Networkd) -> None:
    """networkd configures eth0 alone, and takes away all unreachable routes and all rules that it has not set."""
    host = one_link.host
    host.run("ip", "rule", "add", *RULE)
    watch = one_link.watch()
    gaps = [one_link.least_gap_s("start", one_link.start_networkd)]
    assert "0x7" not in host.run("ip", "rule"), "networkd takes away what it has not set"
    turns = iter(range(TRIES))

    def reload() -> None:
        one_link.configure(f"{ONE_LINK}\n[Route]\nDestination=10.66.{next(turns)}.0/24\nScope=link\n")
        one_link.networkctl("reload")

    gaps += [one_link.least_gap_s("reload", reload), one_link.least_of_command_s("reconfigure", "eth0")]
    gone = one_link.gone(watch)
    assert gone
    assert all("unreachable" in line for line in gone), gone
    assert max(gaps) < WITHIN_S
    assert "no changes" in one_link.member.netctl("plan")
    assert "something else on this host manages its routes" in one_link.member.netctl("status")
    doctor = host.say(one_link.member.host_command("doctor"))
    assert "were taken away" in doctor
    assert "networkd" in doctor


def test_a_lost_carrier_costs_nothing(one_link: Networkd) -> None:
    one_link.start_networkd()
    one_link.quiet()
    before = one_link.restored()
    for state, link in [("down", "no-carrier"), ("up", "routable")] * 2:
        one_link.host.run("ip", "link", "set", "peer0", state)
        wait_for(f"networkd says {link}", lambda link=link: f'"{link}"' in one_link.said("OperationalState"))  # type: ignore[misc]
    one_link.quiet()
    assert one_link.restored() == before


def test_a_pattern_for_every_link_costs_ours_too(every_link: Networkd) -> None:
    """networkd takes our links for its own: their addresses and routes go, and all are back."""
    watch = every_link.watch()
    gaps = [every_link.least_gap_s("start", every_link.start_networkd)]
    gaps += [every_link.least_of_command_s("reconfigure", link) for link in ("eth0", "nctl0", SEGMENT)]
    gone = every_link.gone(watch)
    for what in (
        " 10.8.0.1/32 ",
        " 10.9.0.1/24 ",
        "192.168.77.0/24 dev nctl0 proto 201",
        "unreachable 10.8.0.0/24",
    ):
        assert any(what in line for line in gone), f"networkd leaves {what} alone"
    assert max(gaps) < WITHIN_S
    assert "no changes" in every_link.member.netctl("plan")


@pytest.mark.parametrize("link", ["nctl0", SEGMENT])
def test_a_link_that_it_sets_down_is_up_again(every_link: Networkd, link: str) -> None:
    every_link.start_networkd()
    every_link.quiet()
    assert every_link.least_of_command_s("down", link) < WITHIN_S


@pytest.mark.parametrize(
    ("every_link", "unmanaged"), [("", ""), (EVERY_LINK, UNMANAGED)], ids=["one-link", "every-link"]
)
def test_with_its_settings_it_takes_nothing(every_link: str, unmanaged: str) -> None:
    one = Networkd(every_link, KEEP, unmanaged)
    try:
        one.host.run("ip", "rule", "add", *RULE)
        watch = one.watch()
        for _ in range(2):
            one.start_networkd()
        one.networkctl("reconfigure", "eth0")
        wait_for("eth0 is configured", one.configured)
        one.quiet()
        assert one.gone(watch) == []
        assert "0x7" in one.host.run("ip", "rule")
        assert one.restored() == 0
    finally:
        one.close()
