"""Invites in the page: an operator makes, revokes, approves and shuts out; a viewer sees none of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from netctl.model.errors import LocalError
from netctl.system.asker import asker
from netctl.wire import operatorrequests as m
from tests.support.patience import wait_for
from tests.ui.uikit import DOCUMENT, KEYS, Browser, Host, host, page, peer, words

OPEN = DOCUMENT.replace("mode: routed", "mode: routed, join: {invites: true, approve: manual}").replace(
    "mediators: []", f'mediators: [{{url: "netctl://m:1", identity: ["ed25519:{KEYS[0]}"]}}]'
)
STRING = "netctl-invite-EXAMPLE"


def member(name: str, state: str) -> m.MemberRow:
    return m.MemberRow(name, KEYS[1], None, state, {"home": []}, None, "invite")


def invite(number: str, state: str = "open") -> dict[str, Any]:
    return {
        "id": number, "network": "home", "uses": 2, "used": 1, "name": None,
        "expires_s": time.time() + 7300, "state": state,
    }  # fmt: skip


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host"), peer("nas", "10.9.0.2"), document=OPEN) as made:
        yield made


@pytest.fixture
def known(there: Host) -> Host:
    """The same host, that has not been asked anything yet."""
    there.asked.clear()
    there.answers = ANSWERS.copy()
    return there


ANSWERS: dict[Any, Any] = {
    m.ListMembers: lambda _: [
        member("new-one", "pending"),
        member("nas", "member"),
        member("old", "revoked"),
    ],
    m.ListInvites: lambda _: [m.InviteRow(**invite("i1")), m.InviteRow(**invite("i2", "used"))],
    m.CreateInvite: lambda asked: m.NewInvite(**invite("i3"), invite=STRING, approve="manual"),
    m.RevokeInvite: lambda asked: asked.id,
}
ANSWERS |= dict.fromkeys((m.Approve, m.Reject, m.Revoke, m.Restore), lambda asked: asked.who)


@pytest.fixture(scope="module")
def browser(there: Host) -> Iterator[Browser]:
    with page(there) as one:
        yield one.signed_in()


PAGE = f"{asker()}, by the page"
"""Who asks, for the mediator's audit log."""


def changes(known: Host) -> list[Any]:
    quiet = ("status", "doctor", "members.list", "invite.list")
    return [one for one in known.asked if one.operation() not in quiet]


def test_an_invite_is_made_shown_once_and_revoked(known: Host, browser: Browser) -> None:
    text = browser.get("/invites").text
    assert "<option>home</option>" in text
    assert "1 of 2 used, open, for 2 h more" in words(text)
    made = browser.post("/invites/new", {"network": "home", "uses": "3", "expires": "7d", "name": ""})
    assert made.status == 200
    assert f'data-copy="{STRING}"' in made.text
    assert '<path d="M4 4h1v1h-1z' in made.text, "a QR code"
    assert made.all("cache-control") == ["no-store"]
    assert STRING not in browser.get("/invites").text
    assert browser.post("/invites/revoke", {"id": "i1"}).status == 200
    assert changes(known) == [
        m.CreateInvite("home", 3, "7d", None, by=PAGE),
        m.RevokeInvite("i1", by=PAGE),
    ]


@pytest.mark.parametrize(
    ("action", "kind", "said"),
    [
        ("approve", m.Approve, "is in"),
        ("reject", m.Reject, "is rejected"),
        ("revoke", m.Revoke, "is shut out"),
        ("restore", m.Restore, "may come back"),
    ],
)
def test_members_are_let_in_and_shut_out(
    known: Host, browser: Browser, action: str, kind: type[Any], said: str
) -> None:
    answer = browser.post("/invites/members", {"action": action, "who": "new-one"})
    assert answer.status == 200
    assert f"new-one {said}" in answer.text
    assert changes(known) == [kind("new-one", by=PAGE)]


def test_what_the_mediator_refuses_is_said_and_the_page_goes_on(known: Host, browser: Browser) -> None:
    def refuse(_: Any) -> Any:
        raise LocalError("there is no network 'x'")

    known.answers[m.CreateInvite] = refuse
    answer = browser.post("/invites/new", {"network": "x", "uses": "1", "expires": "24h"})
    assert answer.status == 422
    assert "There is no network &#39;x&#39;." in answer.text
    assert browser.post("/invites/new", {"network": "home", "uses": "many"}).status == 422
    assert browser.post("/invites/members", {"action": "rekey", "who": "nas"}).status == 422


def test_a_viewer_sees_no_invites(known: Host) -> None:
    with page(known, "--viewer") as one:
        viewer = one.signed_in()
        assert viewer.get("/invites").status == 404
        assert "/invites" not in viewer.get("/").text
        assert not {one.operation() for one in known.asked} & {"members.list", "invite.list"}


def test_without_a_mediator_there_is_no_such_page(known: Host, browser: Browser) -> None:
    there = known.directory / "admin.sock"
    there.rename(there.with_suffix(".away"))
    try:
        wait_for("it is noticed", lambda: "/invites" not in browser.get("/").text)
        assert browser.get("/invites").status == 404
    finally:
        there.with_suffix(".away").rename(there)
