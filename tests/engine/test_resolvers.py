"""The host's name servers as resolv.conf(5) has them, whatever stands in it."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.engine.links.foreignscan import MAX_RESOLV_CONF, resolvers

LINES = st.lists(
    st.one_of(
        st.binary(max_size=80),
        st.builds(
            lambda word, gap, rest: word + gap + rest,
            st.sampled_from(
                [b"nameserver", b"search", b"options", b"NAMESERVER", b"#nameserver", b"\xffname"]
            ),
            st.sampled_from([b" ", b"\t", b"", b"\x00", b"\x0b"]),
            st.one_of(st.binary(max_size=60), st.ip_addresses().map(lambda one: str(one).encode())),
        ),
    )
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"nameserver 192.0.2.1\nnameserver 2001:db8::1\n", ["192.0.2.1", "2001:db8::1"]),
        (b"nameserver\t192.0.2.1 # home", ["192.0.2.1"]),
        (b"nameserver fe80::1%eth0", ["fe80::1"]),
        (b"nameserver 127.0.0.53\nnameserver ::1", []),
        (b"nameserver 192.0.2.1\nnameserver 192.0.2.1", ["192.0.2.1"]),
        (b"nameserver\nnameserver 300.1.1.1\nnameserver 10.0.0.0/8\nsearch 192.0.2.9", []),
        (b"\xff\xfe\nnameserver 192.0.2.1\r\n", ["192.0.2.1"]),
        (b"", []),
    ],
)
def test_what_stands_there(text: bytes, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text)
    assert resolvers([path]) == tuple(map(ip_address, found))


def test_files_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text("nameserver 192.0.2.1")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert resolvers([tmp_path, tmp_path / "none", tmp_path / "loop", good]) == (ip_address("192.0.2.1"),)


def test_a_huge_file_is_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    path.write_bytes(b"nameserver 192.0.2.1\n" + b"#" * MAX_RESOLV_CONF + b"\nnameserver 192.0.2.2")
    assert resolvers([path]) == (ip_address("192.0.2.1"),)


@given(LINES)
def test_garbage_is_no_server_and_no_error(lines: list[bytes]) -> None:
    path = Path("/dev/shm") / f"resolv-{id(lines)}"
    try:
        path.write_bytes(b"\n".join(lines))
        found = resolvers([path])
    finally:
        path.unlink(missing_ok=True)
    assert not any(one.is_loopback for one in found)
    assert len(set(found)) == len(found)
