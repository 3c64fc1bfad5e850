"""Keys go into a document that people wrote, and nothing else in it moves."""

from __future__ import annotations

import pytest

from netctl.config.load.loader import parse
from netctl.fleet.publickeys import PublicKeys, enrol, read_keys
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey

PAIR = PublicKeys(WireGuardKey(bytes(31) + b"\x10"), IdentityKey(bytes(31) + b"\x20"))
WIREGUARD, IDENTITY = f'wireguard: "{PAIR.wireguard}"', f'identity: "{PAIR.identity}"'
REST = "networks:\n  office: {members: ['*']}   # all\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "members:\n  nas: {host: a@b}  # mine\n",
            f"members:\n  nas: {{{WIREGUARD}, {IDENTITY}, host: a@b}}  # mine\n",
        ),
        ("members:\n  nas: {}\n", f"members:\n  nas: {{{WIREGUARD}, {IDENTITY}}}\n"),
        (
            "members:\n    # the first\n    nas:\n        host: a@b # ssh\n",
            f"members:\n    # the first\n    nas:\n        {WIREGUARD}\n        {IDENTITY}\n        host: a@b # ssh\n",
        ),
        (
            "members:\n  nas:  # to come\n",
            f'members:\n  nas: {{{WIREGUARD}, {IDENTITY}, host: "root@nas"}}  # to come\n',
        ),
        ("members: {nas: {host: x}}\n", f"members: {{nas: {{{WIREGUARD}, {IDENTITY}, host: x}}}}\n"),
        (
            "members:\n  # others\n  pc: {host: y}\n",
            f'members:\n  # others\n  nas: {{{WIREGUARD}, {IDENTITY}, host: "root@nas"}}\n  pc: {{host: y}}\n',
        ),
        ("members: {}\n", f'members: {{nas: {{{WIREGUARD}, {IDENTITY}, host: "root@nas"}}}}\n'),
        ("", None),
    ],
    ids=["flow", "empty", "block", "nothing", "one line", "new", "new in empty", "no members"],
)
def test_the_text_stays(before: str, after: str | None) -> None:
    done = enrol(before + REST, "n.yaml", {"nas": PAIR}, {"nas": "root@nas"})
    if after is not None:
        assert done.text.replace("  ", " ") == (after + REST).replace("  ", " ")
    assert done.added == ("nas",)
    tree = parse(done.text, "n.yaml").tree
    assert isinstance(tree, dict)
    assert tree["members"]["nas"]["wireguard"] == str(PAIR.wireguard)  # type: ignore[index,call-overload]
    again = enrol(done.text, "n.yaml", {"nas": PAIR}, {})
    assert (again.text, again.added) == (done.text, ())


def test_another_key_is_left_and_said() -> None:
    text = f'members:\n  nas: {{wireguard: "{WireGuardKey(bytes(32))}"}}\n'
    done = enrol(text, "n.yaml", {"nas": PAIR}, {})
    assert (done.text, done.added, done.differing) == (text, (), ("nas",))


@pytest.mark.parametrize("text", ["[]\n", "members: []\n", "x\n"])
def test_what_is_no_document(text: str) -> None:
    with pytest.raises(LocalError, match="no map of `members`"):
        enrol(text, "n.yaml", {"nas": PAIR}, {})


@pytest.mark.parametrize("said", ["", "{}", '{"wireguard": "x", "identity": "y"}', "[]"])
def test_what_a_host_says_is_judged(said: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read_keys(said)
