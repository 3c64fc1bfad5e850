"""The document is edited in the page: its errors, its plan, its trial, and who wins where somebody else saves it."""

from __future__ import annotations

import fcntl
import html
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from netctl.config.load.build import digest
from netctl.fleet.syncstate import Outcome, StateFile, SyncState, Verdict
from netctl.model.errors import LocalError
from netctl.system.files import write_atomic
from netctl.ui.documentpages import patch
from netctl.ui.middleware import MAX_DOCUMENT, MAX_FORM
from netctl.wire import agentrequests as a
from tests.support.patience import BUSY_S, wait_for
from tests.ui.uikit import DOCUMENT, Browser, Host, host, page, peer

NEW = DOCUMENT.replace("groups: [servers]", "groups: [servers, big]")
BINDING = a.BindingState("d", "o", "w")
PLAN = a.PlanReply(
    [a.ChangeRow("peer", "+ peer <nas>")],
    "1 to change",
    a.PeopleState(["laptop loses nas:tcp/22", "nas gains laptop:everything"]),
    a.SessionState(False, None),
    BINDING,
    ["n.yaml:3: a warning"],
)


class Played:
    """An agent that tries a text, and goes back or keeps it."""

    def __init__(self, made: Host) -> None:
        self.host = made
        self.error: str | None = None
        self.applied: list[a.Apply] = []
        made.answers = {
            a.Plan: lambda _: PLAN,
            a.Apply: self.apply,
            a.Confirm: self.confirm,
            a.Rollback: self.back,
        }

    @property
    def file(self) -> Path:
        return self.host.directory / "networks.yaml"

    def arm(self, armed: a.ArmedState | None) -> None:
        self.host.status = msgspec.structs.replace(self.host.status, armed=armed)

    def apply(self, asked: a.Apply) -> a.ApplyReply:
        self.applied.append(asked)
        if self.error is not None:
            raise LocalError(self.error)
        armed = a.ArmedState(digest(asked.text), asked.confirm_s or 0.0)
        self.arm(armed)
        return a.ApplyReply(2, False, None, armed=armed)

    def confirm(self, _: a.Confirm) -> a.ConfirmReply:
        armed = self.host.status.armed
        if armed is None:
            raise LocalError("nothing is armed: there is nothing to confirm")
        self.arm(None)
        return a.ConfirmReply(armed.digest)

    def back(self, _: a.Rollback) -> a.OutcomeReply:
        self.arm(None)
        return a.OutcomeReply(2, None)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Played]:
    with host(tmp_path, peer("nas", "10.9.0.2")) as made:
        yield Played(made)


@pytest.fixture
def browser(agent: Played) -> Iterator[Browser]:
    with page(agent.host) as one:
        yield one.signed_in()


def hidden(text: str) -> dict[str, str]:
    """What a form of a page carries along."""
    return dict(
        re.findall(r'<input type="hidden" name="(base|document|observed|desired)" value="([^"]*)"', text)
    )


def written(text: str) -> str:
    """What stands in the field of a page."""
    found = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", text, re.S)
    assert found is not None
    return html.unescape(found.group(1))


def planned(browser: Browser, text: str, base: str | None = None) -> dict[str, str]:
    """The form that applies a text, as its plan's page has it."""
    edit = hidden(browser.get("/document/edit").text)
    answer = browser.post("/document/plan", {"base": base or edit["base"], "text": text})
    assert answer.status == 200, answer.text
    return {**hidden(answer.text), "text": written(answer.text)}


def test_the_editor_has_the_file(browser: Browser, agent: Played) -> None:
    assert written(browser.get("/document/edit").text) == agent.file.read_text()
    assert 'href="/document/edit"' in browser.get("/document").text


def test_errors_are_told_at_their_lines(browser: Browser) -> None:
    broken = DOCUMENT.replace("mode: routed", "mode: rooted")
    answer = browser.post("/document/check", {"text": broken})
    told = json.loads(answer.text)
    line = next(n for n, text in enumerate(broken.splitlines(), 1) if "rooted" in text)
    assert told["errors"] == 1
    assert {one["line"] for one in told["findings"]} == {line}
    assert "rooted" in told["findings"][0]["text"]
    fine = json.loads(browser.post("/document/check", {"text": DOCUMENT.replace("\n", "\r\n")}).text)
    assert fine["errors"] == 0, "a browser sends lines that end in CR LF"


def test_a_broken_text_is_planned_by_nobody_and_kept(browser: Browser, agent: Played) -> None:
    base = hidden(browser.get("/document/edit").text)["base"]

    def refuse(asked: a.Plan) -> a.PlanReply:
        from netctl.config import load_document

        load_document(asked.text)
        raise AssertionError("it is broken")

    agent.host.answers[a.Plan] = refuse
    answer = browser.post("/document/plan", {"base": base, "text": "members: <b>\n"})
    assert answer.status == 422
    assert written(answer.text) == "members: <b>\n", "what somebody wrote is not lost"
    assert "error NC" in answer.text
    assert hidden(answer.text)["base"] == base


def test_a_plan_says_who_gains_and_who_loses(browser: Browser, agent: Played) -> None:
    edit = hidden(browser.get("/document/edit").text)
    text = browser.post("/document/plan", {"base": edit["base"], "text": NEW.replace("\n", "\r\n")}).text
    assert "laptop loses nas:tcp/22" in text
    assert "nas gains laptop:everything" in text
    assert "+ peer &lt;nas&gt;" in text
    asked = next(one for one in reversed(agent.host.asked) if isinstance(one, a.Plan))
    assert (asked.text, asked.everyone) == (NEW, True)
    assert "was saved by somebody else" not in text


def test_the_patch_is_one_that_programs_take(browser: Browser, tmp_path: Path) -> None:
    edit = hidden(browser.get("/document/edit").text)
    text = browser.post("/document/plan", {"base": edit["base"], "text": NEW}).text
    found = re.search(r'<pre id="patch"[^>]*>(.*?)</pre>', text, re.S)
    assert found is not None
    there = tmp_path / "there"
    there.mkdir()
    for before, said in (
        (DOCUMENT, html.unescape(found.group(1))),
        ("a\nb", patch("a\nb", NEW, "networks.yaml")),
    ):
        (there / "networks.yaml").write_text(before)
        command = ["git", "apply", "--unsafe-paths", "-p1", "-"]
        subprocess.run(command, cwd=there, input=said, text=True, check=True, timeout=BUSY_S)
        assert (there / "networks.yaml").read_text() == NEW


def test_what_is_tried_is_asked_about_and_then_written(browser: Browser, agent: Played) -> None:
    agent.file.chmod(0o640)
    answer = browser.post("/document/apply", planned(browser, NEW))
    assert answer.status == 200
    assert "Keep this?" in answer.text
    assert 'data-left="90"' in answer.text
    assert agent.file.read_text() == DOCUMENT, "a trial changes no file"
    asked = agent.applied[-1]
    assert (asked.text, asked.confirm_s, asked.binding) == (NEW, 90.0, BINDING)
    assert 'data-left="90"' in browser.get("/").text, "every page asks"
    answer = browser.post("/document/confirm", {})
    assert "It stays, and" in answer.text
    assert agent.file.read_text() == NEW
    assert agent.file.stat().st_mode & 0o777 == 0o640


def test_the_time_of_the_document_counts(browser: Browser, agent: Played) -> None:
    browser.post("/document/apply", planned(browser, NEW + "apply: {confirm: 5m}\n"))
    assert agent.applied[-1].confirm_s == 300.0


def test_what_is_taken_back_is_written_nowhere(browser: Browser, agent: Played) -> None:
    browser.post("/document/apply", planned(browser, NEW))
    assert "back where it was" in browser.post("/document/rollback", {}).text
    assert agent.file.read_text() == DOCUMENT
    answer = browser.post("/document/confirm", {})
    assert answer.status == 422
    assert "Nothing is armed" in answer.text


def test_a_save_of_somebody_else_wins_before_the_apply(browser: Browser, agent: Played) -> None:
    form = planned(browser, NEW)
    theirs = DOCUMENT + "# theirs\n"
    agent.file.write_text(theirs)
    answer = browser.post("/document/apply", form)
    assert answer.status == 422
    assert "that save wins" in answer.text
    assert not agent.applied
    again = browser.post("/document/plan", {"base": hidden(answer.text)["base"], "text": NEW}).text
    assert "was saved by somebody else since you began" in again
    assert "-# theirs" in html.unescape(again), "what the text would take back is seen"
    assert hidden(again)["base"] == digest(theirs)


def test_a_save_of_somebody_else_wins_after_the_apply(browser: Browser, agent: Played) -> None:
    browser.post("/document/apply", planned(browser, NEW))
    agent.file.write_text(DOCUMENT + "# theirs\n")
    answer = browser.post("/document/confirm", {})
    assert "The file was left alone" in answer.text
    assert agent.file.read_text() == DOCUMENT + "# theirs\n"


def test_an_apply_of_somebody_else_is_kept_and_no_file_written(browser: Browser, agent: Played) -> None:
    agent.arm(a.ArmedState(digest("else"), 60.0))
    wait_for("it is asked about", lambda: 'data-left="60"' in browser.get("/").text)
    assert "not applied by this page" in browser.post("/document/confirm", {}).text
    assert agent.file.read_text() == DOCUMENT


def test_a_file_that_cannot_be_written_is_said(browser: Browser, agent: Played) -> None:
    browser.post("/document/apply", planned(browser, NEW))
    agent.file.unlink()
    assert "left alone: there is no" in browser.post("/document/confirm", {}).text
    assert not agent.file.exists()


@pytest.mark.parametrize("error", ["this plan is stale: <b>", "no disk"])
def test_an_apply_that_fails_keeps_what_was_written(browser: Browser, agent: Played, error: str) -> None:
    form = planned(browser, NEW)
    agent.error = error
    answer = browser.post("/document/apply", form)
    assert answer.status == 422
    assert html.escape(error[:1].upper() + error[1:]) in answer.text
    assert written(answer.text) == NEW


def test_from_a_plan_one_goes_on_editing(browser: Browser) -> None:
    form = planned(browser, NEW)
    answer = browser.post("/document/back", form)
    assert written(answer.text) == NEW
    assert hidden(answer.text)["base"] == form["base"]


def followed(agent: Played, *, writes: str = "", looked_at_s: float | None = None) -> None:
    verdict = Verdict("c" * 40, "open <port>", Outcome.REFUSED, "a test fails", 1.0, "Ann <ann@x>", "ann@x")
    at_s = time.time() if looked_at_s is None else looked_at_s
    state = SyncState(
        "https://git.example/net", "main", "networks.yaml", writes, "b" * 40, "", at_s, (verdict,)
    )
    StateFile(agent.host.directory / "sync" / "state.json", write_atomic).save(state)


def test_what_git_brings_is_read_alone(browser: Browser, agent: Played) -> None:
    form = planned(browser, NEW)
    followed(agent)
    text = browser.get("/document").text
    said = ("https://git.example/net", "cccccccccc", "Ann &lt;ann@x&gt;", "good, by ann@x")
    for word in (*said, "refused", "a test fails", "bbbbbbbbbb"):
        assert word in text
    assert "open &lt;port&gt;" in text
    assert 'href="/document/edit"' not in text
    assert browser.get("/document/edit").status == 409
    assert browser.post("/document/plan", form).status == 409
    answer = browser.post("/document/apply", form)
    assert answer.status == 409
    assert "brings it from Git" in answer.text
    assert not agent.applied


def test_git_that_begins_to_bring_it_during_a_trial_wins(browser: Browser, agent: Played) -> None:
    browser.post("/document/apply", planned(browser, NEW))
    followed(agent)
    assert "brings this document from Git" in browser.post("/document/confirm", {}).text
    assert agent.file.read_text() == DOCUMENT


def test_a_sync_of_long_ago_or_for_the_mediator_is_none_of_this_host(browser: Browser, agent: Played) -> None:
    followed(agent, looked_at_s=1.0)
    assert browser.get("/document/edit").status == 200
    followed(agent, writes="/elsewhere/networks.yaml")
    assert browser.get("/document/edit").status == 200
    followed(agent, writes=str(agent.file))
    assert browser.get("/document/edit").status == 409, "the mediator and this host share a file"
    followed(agent, looked_at_s=1.0)
    with (agent.host.directory / "sync" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert browser.get("/document/edit").status == 409, "it runs, and could not look for long"


def test_a_host_that_joined_by_invite_edits_nothing(browser: Browser, agent: Played) -> None:
    agent.host.status = msgspec.structs.replace(agent.host.status, joined="home")
    wait_for("it is closed", lambda: "Edit</a>" not in browser.get("/document").text)
    assert "joined by invite, and follows its mediator" in browser.get("/document").text
    assert browser.get("/document/edit").status == 409


def test_a_document_has_a_bound(browser: Browser) -> None:
    fits = "# " + "x" * (MAX_FORM + 1) + "\n"
    assert browser.post("/document/check", {"text": fits}).status == 200
    assert browser.post("/document/check", {"text": "x" * (MAX_DOCUMENT + 1)}).status == 413
    assert browser.post("/document/check", {"text": "%" * (2 * MAX_DOCUMENT)}).status == 413


@pytest.mark.parametrize("text", ["", "\0", "\x1b[2J", "{" * 5000, "a: &x [*x]", "é" * 1000, "- " * 2000])
def test_no_text_breaks_the_editor(browser: Browser, text: str) -> None:
    base = hidden(browser.get("/document/edit").text)["base"]
    told = json.loads(browser.post("/document/check", {"text": text}).text)
    assert told["errors"] >= 1
    for path in ("/document/plan", "/document/apply", "/document/back"):
        assert browser.post(path, {"base": base, "text": text}).status in (200, 422)
    assert browser.get("/document").status == 200


def test_a_viewer_reads_alone(agent: Played) -> None:
    with page(agent.host, "--viewer") as one:
        viewer = one.signed_in()
        assert "/document/edit" not in viewer.get("/document").text
        assert viewer.get("/document/edit").status == 403
        agent.arm(a.ArmedState(digest(NEW), 60.0))
        assert "Keep this?" not in viewer.get("/").text
