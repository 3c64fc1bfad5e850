"""NetworkManager itself beside netctl: it leaves our links alone, and what its commands take away is back at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.driftkit import SEGMENT
from tests.netns.managerkit import CARD_ADDRESS, WITHIN_S, Managed, missing
from tests.support.hosts import needs_namespaces
from tests.support.patience import wait_for

UNPACKED = Path(__file__).parents[2] / ".cache/networkmanager"
"""Where `scripts/setup networkmanager` puts it, with the libraries that are not installed here."""

# NetworkManager makes no profile of its own for the other end of the card's cable, which would ask for a lease.
SETTINGS = "[main]\nplugins=keyfile\ndns=none\nauth-polkit=false\nno-auto-default=*\n"
CARD = f"""[connection]
id=card
type=ethernet
interface-name=eth0

[ipv4]
method=manual
address1={CARD_ADDRESS},203.0.113.1

[ipv6]
method=ignore
"""
# NetworkManager 1.52 (Debian 13) looks up itself, and who calls it, in /proc. nsenter forks for that, and the program
# ends with it.
AMONG_THE_HOSTS = ("nsenter", "--target=1", "--pid", "setpriv", "--pdeathsig", "TERM")
UNMANAGED = "[keyfile]\nunmanaged-devices+=interface-name:nctl*;interface-name:nseg*;interface-name:lo\n"
"""The file conf.d/netctl.conf that docs/coexistence.md names."""


def program(name: str) -> str | None:
    """An installed program, or the unpacked one."""
    unpacked = (UNPACKED / place / name for place in ("usr/sbin", "usr/bin"))
    return shutil.which(name) or next((str(path) for path in unpacked if path.exists()), None)


MANAGER, NMCLI = program("NetworkManager"), program("nmcli")
LIBRARIES = ":".join(str(path) for lib in ("usr/lib", "lib") for path in UNPACKED.glob(f"{lib}/*-linux-gnu"))


def why_not() -> str | None:
    """Why NetworkManager cannot run here; None when it can."""
    if MANAGER is None or NMCLI is None:
        return "no NetworkManager here: `scripts/setup networkmanager` fetches it"
    return missing()


pytestmark = [
    pytest.mark.netns,
    needs_namespaces,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


class NetworkManager(Managed):
    """A member beside NetworkManager, which has a profile for the card, as a desktop has."""

    def __init__(self, settings: str = "") -> None:
        super().__init__()
        self.host.run("rm", "-rf", "/etc/NetworkManager")  # a link to the machine's directory
        self.host.run("mkdir", "-p", "/run/NetworkManager", "/var/lib/NetworkManager")
        self.write("/etc/NetworkManager/NetworkManager.conf", SETTINGS)
        self.write("/etc/NetworkManager/system-connections/card.nmconnection", CARD)
        if settings:
            self.write("/etc/NetworkManager/conf.d/netctl.conf", settings)

    def start_manager(self) -> None:
        """Start it anew; afterwards it has configured its card and looked at all links."""
        program = ("env", f"LD_LIBRARY_PATH={LIBRARIES}", str(MANAGER), "-n")
        self.start([*AMONG_THE_HOSTS, *program], self.configured)

    def configured(self) -> bool:
        return (
            "started" in self.nmcli("-g", "STARTUP", "general", check=False)
            and self.has_its_address()
            and self.state("eth0").startswith("100")
            and all(self.state(link).startswith(("100", "10 ")) for link in ("nctl0", SEGMENT))
        )

    def state(self, link: str) -> str:
        """The state of a link, as NetworkManager says it: its number, and in words."""
        return self.nmcli("-g", "GENERAL.STATE", "device", "show", link, check=False)

    def nmcli(self, *arguments: str, check: bool = True) -> str:
        return self.host.run("env", f"LD_LIBRARY_PATH={LIBRARIES}", str(NMCLI), *arguments, check=check)

    def configure_the_card(self) -> None:
        """All that configures the card anew, and a start."""
        self.start_manager()
        for command in (
            ("connection", "up", "card"),
            ("device", "reapply", "eth0"),
            ("general", "reload"),
            ("connection", "reload"),
        ):
            self.nmcli(*command)
        self.start_manager()

    def off_and_on(self) -> None:
        """As a laptop's switch for flights does."""
        # 1.52 (Debian 13) switches off at once, and does not say so within nmcli's 25 s where links are another's.
        self.nmcli("networking", "off", check=False)
        wait_for("the card is off", lambda: not self.has_its_address())
        self.nmcli("networking", "on")
        wait_for("it is on again", self.configured)


@pytest.fixture(scope="module")
def plain() -> Iterator[NetworkManager]:
    one = NetworkManager()
    try:
        yield one
    finally:
        one.close()


def test_it_takes_our_links_for_anothers_and_leaves_them_alone(plain: NetworkManager) -> None:
    watch = plain.watch()
    plain.configure_the_card()
    plain.quiet()
    assert plain.gone(watch) == []
    assert plain.restored() == 0
    assert "externally" in plain.state("nctl0")
    assert "externally" in plain.state(SEGMENT)
    assert "no changes" in plain.member.netctl("plan")


def test_what_its_commands_take_away_is_back_at_once(plain: NetworkManager) -> None:
    plain.start_manager()
    watch = plain.watch()
    gaps = [plain.least_gap_s("off and on", plain.off_and_on)]
    gone = plain.gone(watch)
    for what in (" 10.8.0.1/32 ", " 10.9.0.1/24 ", "192.168.77.0/24 dev nctl0 proto 201", "unreachable fd"):
        assert any(what in line for line in gone), f"it leaves {what} alone"
    for link in ("nctl0", SEGMENT):
        gaps.append(plain.least_gap_s(link, lambda link=link: plain.nmcli("device", "disconnect", link)))  # type: ignore[misc]
    assert max(gaps) < WITHIN_S
    assert "no changes" in plain.member.netctl("plan")
    doctor = plain.host.say(plain.member.host_command("doctor"))
    assert "were taken away" in doctor
    assert "NetworkManager" in doctor


def test_with_its_setting_no_command_takes_anything() -> None:
    one = NetworkManager(UNMANAGED)
    try:
        watch = one.watch()
        one.configure_the_card()
        one.off_and_on()
        for link in ("nctl0", SEGMENT):
            assert "unmanaged" in one.state(link)
            one.nmcli("device", "disconnect", link, check=False)
        one.quiet()
        assert one.gone(watch) == []
        assert one.restored() == 0
    finally:
        one.close()
