"""The node's queue: one job after the other, answers by token, who waits is told, one fault ends one job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netctl.config import Loaded, load_document
from netctl.model.errors import EngineError, LocalError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.model.view import View
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node import requests
from netctl.node.carrying import recall
from netctl.node.commit import PendingCommit
from netctl.node.confirming import TICK_S
from netctl.node.context import Context
from netctl.node.linkstate import LinkState
from netctl.node.node import DRIFT_S, TURN_S, TURN_SAID_S, Node
from netctl.node.ownport import port_of
from netctl.session import Kept
from netctl.wire.control import Sealed

ME, OTHER = (WireGuardKey(bytes([number]) * 32) for number in (1, 2))


def text_of(number: int = 1) -> str:
    me, other = f"10.1.{number}.1", f"10.1.{number}.2"
    return f"""apiVersion: netctl/v1
mediators: []
members:
  me: {{wireguard: "{ME}"}}
  other: {{wireguard: "{OTHER}", endpoints: ["192.0.2.2:{number}"]}}
networks:
  net: {{mode: routed, ipv4: 10.1.{number}.0/24, members: ["*"], addresses: {{me: {me}, other: {other}}}}}
"""


def document(number: int = 1) -> Loaded:
    return load_document(text_of(number), "f")


SEEN = on.HostRead(Foreign(), frozenset(), {}, None, HostState())
ANSWERS: dict[type[do.Effect], on.Event] = {
    do.ReadCommit: on.CommitRead(),
    do.ReadHost: SEEN,
    do.ApplyHost: on.Applied(ApplyOutcome(3)),
    do.FollowHost: on.Followed(),
    do.Observe: on.Observed(),
    do.Persist: on.Stored(),
    do.KeepPins: on.Stored(),
    do.RetryHost: on.Stored(),
    do.CloseCommit: on.Stored(),
    do.LookForLink: on.LinkSeen(there=True),
}


class Shell:
    """Answers every step but those that it is told to hold back."""

    def __init__(self) -> None:
        self.node = Node(Context(ME, "boot"))
        self.now = 100.0
        self.held: list[do.Perform] = []
        self.hold: type[do.Effect] | None = None
        self.steps: list[str] = []
        self.notices: list[do.Notice] = []
        self.answers = dict(ANSWERS)

    def post(self, event: on.Happening) -> None:
        for effect in self.node.handle(event, self.now):
            if not isinstance(effect, do.Perform):
                self.notices.append(effect)
            elif self.hold is not None and isinstance(effect.step, self.hold):
                self.held.append(effect)
            else:
                self.steps.append(type(effect.step).__name__)
                self.post(on.Answered(effect.token, self.answers[type(effect.step)]))

    def ask(self, number: int, body: requests.Request) -> None:
        self.post(on.Requested(number, body))

    def replies(self) -> dict[int, do.Reply]:
        return {notice.request: notice for notice in self.notices if isinstance(notice, do.Reply)}

    def let_go(self, event: on.Event | None = None) -> None:
        self.hold = None
        (held,) = self.held
        self.held.clear()
        self.post(on.Answered(held.token, event or self.answers[type(held.step)]))


@pytest.fixture
def shell() -> Shell:
    return Shell()


def test_a_change_waits_for_the_one_before_and_it_is_said_once(shell: Shell) -> None:
    shell.hold = do.ApplyHost
    shell.ask(1, requests.Apply(document(1)))
    shell.ask(2, requests.Apply(document(2)))
    assert len(shell.held) == 1
    due = shell.node.next_timer()
    assert due == shell.now + TURN_SAID_S
    for _ in range(3):
        shell.now = due + 0.1
        shell.post(on.TimePassed())
    lines = [notice for notice in shell.notices if isinstance(notice, do.Progress)]
    assert [line.request for line in lines] == [2]
    shell.let_go()
    assert sorted(shell.replies()) == [1, 2]
    assert all(reply.error is None for reply in shell.replies().values())
    assert shell.node.context.state.loaded == document(2)


def test_whoever_has_waited_for_a_minute_is_told_that_nothing_was_changed(shell: Shell) -> None:
    shell.hold = do.ApplyHost
    shell.ask(1, requests.Apply(document(1)))
    shell.ask(2, requests.Apply(document(2)))
    shell.now += TURN_SAID_S + TURN_S
    shell.post(on.TimePassed())
    error = shell.replies()[2].error
    assert isinstance(error, LocalError)
    assert "nothing was changed" in str(error)
    shell.let_go()
    assert shell.replies()[1].error is None
    assert shell.node.context.state.loaded == document(1)
    assert not shell.node.busy


def test_an_answer_to_another_step_changes_nothing(shell: Shell) -> None:
    shell.hold = do.ApplyHost
    shell.ask(1, requests.Apply(document()))
    held = shell.held[0]
    shell.post(on.Answered(held.token - 1, on.Applied(ApplyOutcome(0, error="of long ago"))))
    assert shell.replies() == {}
    shell.let_go()
    shell.post(on.Answered(held.token, on.Applied(ApplyOutcome(0, error="a second time"))))
    assert shell.replies()[1].error is None


def test_what_a_step_raises_ends_its_job_alone(shell: Shell) -> None:
    shell.answers[do.ReadHost] = on.Failed(EngineError("the kernel does not answer"))
    shell.ask(1, requests.CheckDrift())
    shell.ask(2, requests.Plan(document()))
    assert "does not answer" in str(shell.replies()[2].error)
    shell.answers[do.ReadHost] = SEEN
    shell.ask(3, requests.Apply(document()))
    assert shell.replies()[3].error is None


def test_a_fault_of_a_step_that_nobody_asked_for_is_one_line_and_the_next_look_tries_again(
    shell: Shell,
) -> None:
    shell.ask(1, requests.Apply(document()))
    shell.answers[do.ReadHost] = on.Failed(TimeoutError("gone"))
    shell.post(on.ReconcileWanted())
    assert "TimeoutError: gone" in str(shell.node.context.unmet)
    assert not shell.node.busy
    shell.answers[do.ReadHost] = SEEN
    shell.post(on.ReconcileWanted())
    assert shell.node.context.unmet is None


def test_many_wishes_to_reconcile_are_one(shell: Shell) -> None:
    shell.ask(1, requests.Apply(document()))
    shell.hold = do.ReadHost
    for _ in range(5):
        shell.post(on.ReconcileWanted())
    before = shell.steps.count("ApplyHost")
    shell.let_go()
    assert shell.steps.count("ApplyHost") - before == 2, "the one under way, and one for all that came since"


@pytest.mark.parametrize(
    ("mode", "endpoint", "began", "ended"),
    [("lan", False, True, True), ("routed", False, False, False), ("routed", True, False, True)],
)
def test_a_change_of_sessions_reconciles_only_what_depends_on_it(
    shell: Shell, mode: str, endpoint: bool, began: bool, ended: bool
) -> None:
    """Broadcast, and a fixed endpoint once the session is over: with thousands of peers a look at all is
    expensive."""
    text = text_of().replace("mode: routed", f"mode: {mode}")
    if not endpoint:
        text = text.replace(', endpoints: ["192.0.2.2:1"]', "")
    shell.ask(1, requests.Apply(load_document(text, "f")))
    for live, wanted in ((frozenset({OTHER}), began), (frozenset[WireGuardKey](), ended)):
        shell.steps.clear()
        shell.post(on.SessionsChanged(live))
        assert ("ApplyHost" in shell.steps) is wanted, live
        assert shell.node.context.live == live


def test_the_same_view_at_a_later_generation_makes_no_work_and_is_on_disk_before_it_is_recalled(
    shell: Shell,
) -> None:
    shell.ask(1, requests.Apply(document()))
    context = shell.node.context
    context.state = replace(context.state, view=View(3))
    shell.steps.clear()
    later = Kept(View(9), Sealed(9, "", "", ""))
    shell.post(on.ViewConfirmed(later))
    assert shell.steps == []
    assert (context.kept, context.unkept) == (later, later)
    assert context.state.view == View(9)
    work = recall(context, document().document)
    assert next(work) == do.KeepView(later)
    assert isinstance(work.send(on.Stored()), do.RecallView)
    assert context.unkept is None


def test_a_host_that_is_brought_to_an_equal_state_keeps_the_one_it_has(shell: Shell) -> None:
    shell.ask(1, requests.Apply(document()))
    before = shell.node.context.state.desired
    shell.post(on.ReconcileWanted())
    assert shell.node.context.state.desired is before
    shell.ask(2, requests.Apply(document(2)))
    assert shell.node.context.state.desired != before


def test_nothing_is_due_before_a_life_begins_and_drift_is_looked_for_after(shell: Shell) -> None:
    assert shell.node.next_timer() is None
    shell.post(on.Started())
    assert shell.node.next_timer() == shell.now + DRIFT_S


def test_an_armed_apply_is_looked_at_every_second_and_taken_back_at_its_deadline(shell: Shell) -> None:
    record = PendingCommit("n", "boot", shell.now + 10, "digest", None, HostState(), finished=True)
    shell.answers |= {
        do.ReadCommit: on.CommitRead(record),
        do.RestoreDocument: on.DocumentRead(),
        do.CloseCommit: on.Stored(),
    }
    shell.post(on.Started())
    assert shell.node.next_timer() == shell.now + TICK_S
    shell.now += 9.9
    shell.post(on.TimePassed())
    assert "RestoreDocument" not in shell.steps
    due = shell.node.next_timer()
    assert due is not None
    assert round(due - record.deadline_s, 6) == 0, "the deadline is late"
    shell.now = due + 0.001
    shell.post(on.TimePassed())
    assert shell.steps[-4:] == ["RestoreDocument", "ApplyHost", "FollowHost", "CloseCommit"]
    assert shell.node.context.armed is None


def test_a_new_engine_is_told_its_endpoints_once_it_is_there(shell: Shell) -> None:
    """Told before, they would go to the one that has ended, and every path would be looked for anew."""
    shell.ask(1, requests.Apply(document()))
    shell.answers[do.LookForLink] = on.LinkSeen(there=False)
    shell.hold = do.ApplyHost
    shell.post(on.LinkVanished())
    assert shell.held
    assert do.EngineGone() not in shell.notices
    shell.let_go()
    assert shell.notices.count(do.EngineGone()) == 1
    assert shell.node.context.revival.restarts == 1


@pytest.mark.parametrize("first", ["drift", "reconcile", "apply"])
def test_whoever_comes_first_after_the_end_of_an_engine_counts_it_and_tells_the_new_one(
    shell: Shell, first: str
) -> None:
    """The kernel's word waits for its turn: the link may be back by then, and nobody would have told of it."""
    shell.ask(1, requests.Apply(document()))
    shell.answers[do.LookForLink] = on.LinkSeen(there=False)
    shell.hold = do.ApplyHost
    match first:
        case "drift":
            shell.ask(2, requests.CheckDrift())
        case "reconcile":
            shell.post(on.ReconcileWanted())
        case _:
            shell.ask(2, requests.Apply(document(2)))
    shell.post(on.LinkVanished())
    assert shell.held
    shell.answers[do.LookForLink] = on.LinkSeen(there=True)
    shell.let_go()
    assert shell.notices.count(do.EngineGone()) == 1
    assert shell.node.context.revival.restarts == 1
    assert shell.node.context.revival.since_s is None


def test_a_roll_back_that_fails_is_tried_again(shell: Shell) -> None:
    record = PendingCommit("n", "another boot", 0.0, "digest", None, HostState(), finished=True)
    shell.answers |= {
        do.ReadCommit: on.CommitRead(record),
        do.RestoreDocument: on.DocumentRead(unstored="No space left on device"),
    }
    shell.post(on.Started())
    assert shell.steps.count("RestoreDocument") == 1
    assert shell.steps.count("ApplyHost") == 1, "a full disk keeps no host from going back"
    for _ in range(4):
        shell.now += 1.0
        shell.post(on.TimePassed())
    assert shell.steps.count("RestoreDocument") == 3
    assert "CloseCommit" not in shell.steps, "the next life has to go back again"
    assert shell.node.context.not_back is not None
    said = [notice for notice in shell.notices if isinstance(notice, do.Log) and "on disk" in notice.text]
    assert len(said) == 1, "it is said once, not every other second"
    shell.answers[do.RestoreDocument] = on.DocumentRead()
    shell.now += 3.0
    shell.post(on.TimePassed())
    assert shell.steps[-1] == "CloseCommit"
    assert shell.node.context.not_back is None


def test_a_port_that_is_not_fit_is_left_where_the_document_does_not_name_it(shell: Shell) -> None:
    shell.ask(1, requests.Apply(document()))
    shell.post(on.PortUnfit("shared"))
    link = shell.node.context.state.desired.wireguard
    assert link is not None
    assert link.listen_port == port_of(ME, 1)
    table = shell.node.context.state.desired.filter
    assert table is not None
    assert table.guards.listen_port == port_of(ME, 1)
    shell.ask(2, requests.Apply(document(2)))
    assert shell.node.context.state.desired.wireguard is not None
    assert shell.node.context.state.desired.wireguard.listen_port == port_of(ME, 1), (
        "and another document keeps it"
    )


def test_a_port_that_the_document_names_is_kept(shell: Shell) -> None:
    text = document().source.text.replace("  me: {", "  me: {listenPort: 51999, ")
    shell.ask(1, requests.Apply(load_document(text, "f")))
    shell.post(on.PortUnfit("dead"))
    link = shell.node.context.state.desired.wireguard
    assert link is not None
    assert link.listen_port == 51999
    assert shell.node.context.state.port_turn == 0


def test_an_agent_that_begins_anew_knows_the_port_of_before(shell: Shell) -> None:
    shell.node.context.state = replace(shell.node.context.state, loaded=document())
    shell.answers[do.LookForLink] = on.LinkSeen(there=True, port=port_of(ME, 3))
    shell.answers[do.RecallView] = on.ViewKept()
    shell.post(on.Started())
    assert shell.node.context.state.port_turn == 3


def test_who_waits_for_another_host_with_its_key_has_no_peers_until_it_is_in(shell: Shell) -> None:
    shell.ask(1, requests.Apply(document()))
    assert shell.node.context.wanted_peers
    shell.post(on.LinkChanged(LinkState("unreachable", 0.0, "another host", final=True, waits=True)))
    assert not shell.node.context.wanted_peers
    shell.post(on.LinkChanged(LinkState("connected", 1.0)))
    assert shell.node.context.wanted_peers
