"""The managed block of the hosts file, and kernel parameters with their way back."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from netctl.engine.hosts import BEGIN, END, HostsFile, parse_block, replace_block
from netctl.engine.sysctls import Sysctls
from netctl.model.errors import EngineError

NAMES = {
    "a.office.netctl": (ip_address("10.0.0.1"), ip_address("fd00::1")),
    "b.office.netctl": (ip_address("10.0.0.2"),),
}
THEIRS = "127.0.0.1\tlocalhost\n# mine, by hand\n192.0.2.1 printer\n"


def test_a_block_comes_changes_and_goes_and_theirs_stays() -> None:
    written = replace_block(THEIRS, NAMES)
    assert written.startswith(THEIRS)
    assert parse_block(written) == NAMES
    assert replace_block(written, NAMES) == written
    fewer = {"b.office.netctl": NAMES["b.office.netctl"]}
    assert parse_block(replace_block(written, fewer)) == fewer
    assert replace_block(written, {}) == THEIRS


def test_lines_after_the_block_stay_after_it() -> None:
    written = replace_block(THEIRS, NAMES) + "192.0.2.2 scanner\n"
    assert replace_block(written, {}) == THEIRS + "192.0.2.2 scanner\n"
    assert replace_block(written, NAMES) == written


def test_nonsense_inside_the_block_is_passed_over() -> None:
    text = f"{BEGIN}\nnot-an-address x\n\n   \n10.0.0.1\ta.netctl\n{END}\n"
    assert parse_block(text) == {"a.netctl": (ip_address("10.0.0.1"),)}


def test_the_file_keeps_its_mode_and_is_made_when_missing(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(path)
    assert hosts.read() == {}
    hosts.write(NAMES)
    assert hosts.read() == NAMES
    path.chmod(0o640)
    hosts.write({})
    assert path.stat().st_mode & 0o777 == 0o640
    assert [item.name for item in tmp_path.iterdir()] == ["hosts"]
    path.unlink()
    path.mkdir()
    with pytest.raises(EngineError, match="cannot read"):
        hosts.read()


def test_a_file_is_parsed_again_only_when_it_has_changed(tmp_path: Path) -> None:
    """The names of thousands of peers are looked at with every drift check."""
    path = tmp_path / "hosts"
    hosts = HostsFile(path)
    hosts.write(NAMES)
    assert hosts.read() is hosts.read()
    other = HostsFile(path)
    assert other.read() == NAMES
    assert other.read() is other.read()
    fewer = dict(list(NAMES.items())[:1])
    other.write(fewer)
    path.write_text(path.read_text() + "10.0.0.9 stranger.netctl\n")
    assert hosts.read() == fewer
    assert [found.name for found in hosts.foreign("netctl")] == ["stranger.netctl"]
    path.write_text("")
    assert (hosts.read(), hosts.foreign("netctl")) == ({}, ())


@pytest.fixture
def sysctls(tmp_path: Path) -> Sysctls:
    """Parameters in a directory of this test instead of /proc/sys."""
    for key, value in {"net/ipv4/ip_forward": "0", "net/ipv4/conf/nseg1/rp_filter": "1"}.items():
        file = tmp_path / "proc" / key
        file.parent.mkdir(parents=True)
        file.write_text(value + "\n")
    return Sysctls(tmp_path / "state" / "sysctls.json", tmp_path / "proc")


def test_a_parameter_goes_back_to_what_it_was_before_the_first_set(sysctls: Sysctls, tmp_path: Path) -> None:
    file = tmp_path / "proc/net/ipv4/ip_forward"
    assert sysctls.read(frozenset()) == {}
    sysctls.set("net/ipv4/ip_forward", "1", link_bound=False)
    sysctls.set("net/ipv4/ip_forward", "2", link_bound=False)
    assert sysctls.read(frozenset()) == {"net/ipv4/ip_forward": "2"}
    sysctls.restore("net/ipv4/ip_forward")
    assert file.read_text().strip() == "0"
    assert sysctls.read(frozenset()) == {}
    file.write_text("5")
    sysctls.restore("net/ipv4/ip_forward")
    assert file.read_text() == "5", "what is not ours is not given back"


def test_a_parameter_of_a_link_dies_with_it_and_is_not_kept(sysctls: Sysctls, tmp_path: Path) -> None:
    sysctls.set("net/ipv4/conf/nseg1/rp_filter", "2", link_bound=True)
    assert sysctls.read(frozenset({"nseg1"})) == {"net/ipv4/conf/nseg1/rp_filter": "2"}
    assert not (tmp_path / "state").exists()


def test_an_unknown_parameter_is_named_and_a_host_without_ipv6_is_fine(sysctls: Sysctls) -> None:
    with pytest.raises(EngineError, match="net/ipv4/no_such"):
        sysctls.set("net/ipv4/no_such", "1", link_bound=False)
    sysctls.set("net/ipv6/conf/all/forwarding", "1", link_bound=False)
    assert sysctls.read(frozenset()) == {}


IN_A_CONTAINER = """
import sys
from pathlib import Path
from netctl.engine.sysctls import Sysctls
from netctl.model.errors import EngineError

sysctls = Sysctls(Path(sys.argv[1]) / "saved.json", Path(sys.argv[1]) / "proc")
sysctls.set("net/ipv4/conf/nseg1/rp_filter", "1", link_bound=True)
try:
    sysctls.set("net/ipv4/conf/nseg1/rp_filter", "2", link_bound=True)
except EngineError as error:
    print(error)
"""


def test_a_container_is_told_how_to_give_what_it_cannot_set(sysctls: Sysctls, tmp_path: Path) -> None:
    """/proc/sys is read-only in there: what has its value already stands, and the rest is given from outside."""
    proc = tmp_path / "proc"
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && exec "$2" -P -c "$3" "$4"'
    argv = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]
    argv += [str(proc), sys.executable, IN_A_CONTAINER, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if "unshare failed" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.stdout.strip().endswith(
        "rp_filter to 2: Read-only file system; in a container, start it with "
        "--sysctl net.ipv4.conf.default.rp_filter=2"
    ), done.stdout + done.stderr


def test_links_that_live_by_router_advertisements_go_on_when_the_host_becomes_a_router(
    tmp_path: Path,
) -> None:
    conf = tmp_path / "proc/net/ipv6/conf"
    values = {"all": "1", "default": "1", "eth0": "1", "eth1": "0", "eth2": "2", "wlan0": "1"}
    for link, value in values.items():
        (conf / link).mkdir(parents=True)
        (conf / link / "accept_ra").write_text(value)
    (conf / "all" / "forwarding").write_text("0")
    sysctls = Sysctls(tmp_path / "state" / "sysctls.json", tmp_path / "proc")

    def now() -> dict[str, str]:
        return {link: (conf / link / "accept_ra").read_text() for link in values}

    sysctls.set("net/ipv6/conf/all/forwarding", "1", link_bound=False)
    assert now() == {**values, "default": "2", "eth0": "2", "wlan0": "2"}
    assert sysctls.read(frozenset()) == {"net/ipv6/conf/all/forwarding": "1"}, (
        "they are no part of the document"
    )
    (conf / "wlan0" / "accept_ra").write_text("0")  # somebody's own wish meanwhile
    sysctls.restore("net/ipv6/conf/all/forwarding")
    assert now() == {**values, "wlan0": "0"}
    assert (conf / "all" / "forwarding").read_text() == "0"


def test_who_was_a_router_before_us_has_chosen_himself(tmp_path: Path) -> None:
    conf = tmp_path / "proc/net/ipv6/conf"
    for link in ("all", "eth0"):
        (conf / link).mkdir(parents=True)
        (conf / link / "accept_ra").write_text("1")
    (conf / "all" / "forwarding").write_text("1")
    sysctls = Sysctls(tmp_path / "state" / "sysctls.json", tmp_path / "proc")
    sysctls.set("net/ipv6/conf/all/forwarding", "1", link_bound=False)
    assert (conf / "eth0" / "accept_ra").read_text() == "1"
