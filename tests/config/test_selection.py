"""Selectors find members, at the cost of those they find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.config import load_document
from netctl.config.load.build import Selection, select
from netctl.config.reach.visibility import visible_members
from netctl.model.document import Document, Member, MemberState, Rule
from netctl.model.keys import WireGuardKey
from tests.support.documents import key, trees

NAMES = ("ann", "bob", "cid", "dan")
GROUPS = ("red", "blue")


def member(name: str, groups: frozenset[str], state: MemberState, *, keyed: bool) -> Member:
    return Member(name, WireGuardKey.parse(key(name)) if keyed else None, groups=groups, state=state)


MEMBERS = st.fixed_dictionaries(
    {
        name: st.builds(
            member,
            st.just(name),
            st.frozensets(st.sampled_from(GROUPS)),
            st.sampled_from(MemberState),
            keyed=st.booleans(),
        )
        for name in NAMES
    }
)
SELECTORS = st.lists(
    st.sampled_from([*NAMES, "group:red", "group:blue", "group:none", "eve", "*", "10.0.0.0/8"])
)


@given(MEMBERS, SELECTORS)
def test_a_selection_is_the_present_members_that_a_selector_names_in_the_documents_order(
    members: dict[str, Member], selectors: list[str]
) -> None:
    wanted = [
        name
        for name, one in members.items()
        if one.state is MemberState.PRESENT and one.wireguard is not None
        if "*" in selectors or name in selectors or any(f"group:{group}" in selectors for group in one.groups)
    ]
    assert list(Selection(members).names(selectors)) == wanted
    assert list(select(tuple(selectors), members)) == wanted


@settings(max_examples=50, deadline=None)
@given(trees())
def test_whoever_a_rule_lets_one_reach_is_seen_from_both_sides(tree: dict[str, Any]) -> None:
    document = load_document(json.dumps(tree)).document
    seen = visible_members(document)
    for network in document.networks.values():
        members = {name: document.members[name] for name in network.member_names}
        for rule in network.acls or ():
            for one in select(rule.src, members):
                for other in select(rule.dst, members):
                    assert other in seen[one]
                    assert one in seen[other]


class Looked(frozenset[str]):
    """The groups of a member, and how often somebody has looked at those of any member."""

    times = 0

    def isdisjoint(self, other: object) -> bool:
        Looked.times += 1
        return super().isdisjoint(other)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        Looked.times += 1
        return super().__iter__()


def fleet(sites: int, of: int) -> Document:
    """A network in which a rule for each site lets its members see each other."""
    names = [f"s{site}-{number}" for site in range(sites) for number in range(of)]
    tree = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": ["ed25519:" + key("mediator")]}],
        "members": {
            name: {"wireguard": key(name), "identity": "ed25519:" + key(f"identity {name}")} for name in names
        },
        "networks": {"fleet": {"mode": "routed", "ipv4": "10.0.0.0/16", "members": ["*"], "acls": []}},
    }
    document = load_document(json.dumps(tree)).document
    members = {
        name: replace(one, groups=Looked({name.partition("-")[0]})) for name, one in document.members.items()
    }
    rules = tuple(Rule(f"s{site}", (f"group:s{site}",), (f"group:s{site}",)) for site in range(sites))
    network = replace(document.networks["fleet"], acls=rules)
    return replace(document, members=members, networks={"fleet": network})


def test_a_rule_does_not_cost_a_look_at_every_member() -> None:
    document = fleet(sites=40, of=5)
    Looked.times = 0
    seen = visible_members(document)
    assert seen["s7-0"] == {f"s7-{number}" for number in range(5)}
    assert Looked.times <= 2 * len(document.members)
