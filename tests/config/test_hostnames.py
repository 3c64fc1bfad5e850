"""Whatever a host is called, its member's name is a strict DNS label, and the nearest one that can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.config.edit.hostnames import checked_name, label_of
from netctl.config.resolve.guests import NAME
from netctl.model.errors import LocalError

ODD = [
    ("NAS.example.org", "nas"),
    ("my_pc", "my-pc"),
    ("-x-", "x"),
    ("a--b", "a-b"),
    ("büro", "buro"),
    ("BÜRO", "buro"),
    ("Straße 7", "strasse-7"),
    ("Łódź", "lodz"),
    ("smørrebrød", "smorrebrod"),
    ("ﬁle①", "file1"),
    ("büro-事務所", "buro"),
    ("事務所", "xn--3kqu8h87q"),
    ("кухня", "xn--j1agri5c"),
    ("🎮", "host"),
    ("", "host"),
    (" ", "host"),
    ("(none)", "none"),
    ("a" * 80, "a" * 63),
    ("a" * 62 + "-b", "a" * 62),
    ("я" * 80, "host"),
]


@pytest.mark.parametrize(("host", "name"), ODD)
def test_names_of_hosts_become_names_of_members(host: str, name: str) -> None:
    assert label_of(host) == name


@given(st.text(max_size=80))
def test_it_is_always_a_name_and_the_same_again(host: str) -> None:
    name = label_of(host)
    assert NAME.match(name)
    if not name.startswith("xn--"):
        assert label_of(name) == name
    assert checked_name(name) == name


@pytest.mark.parametrize("wanted", ["büro", "-x", " ", "A", "a" * 64, "a.b", "x\n"])
def test_a_name_that_somebody_chose_is_refused_and_not_bent(wanted: str) -> None:
    with pytest.raises(LocalError, match="is no host name"):
        checked_name(wanted)
