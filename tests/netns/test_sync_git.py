"""A sync judges everything before it touches anything, and says why it did not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from netctl.fleet.sync import Settings, Sync, Taken, shown_url
from netctl.fleet.syncstate import Outcome, StateFile, SyncState, Verdict
from netctl.system.files import write_atomic
from tests.fleet.test_review import DOCUMENT, OPENED
from tests.support.gitkit import Repository, allow, ssh_key
from tests.support.patience import BUSY_S

BROKEN = DOCUMENT.replace("mode: routed", "mode: rooted")
FAILING = DOCUMENT.replace("ports: [22]", "ports: [80]")


class Host:
    """A target in memory."""

    def __init__(self) -> None:
        self.text = ""
        self.answer = Taken(Outcome.APPLIED)
        self.taken = 0
        self.again = False

    def holds(self, text: str) -> bool:
        return self.text == text

    def take(self, text: str, commit: str, still_reachable: Callable[[], bool], *, again: bool) -> Taken:
        self.taken += 1
        self.again = again
        assert still_reachable()
        if self.answer.outcome is Outcome.APPLIED:
            self.text = text
        return self.answer


class Followed:
    """A repository, a host and the sync between them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repository = Repository(path / "repository")
        self.host = Host()
        self.now = 1000.0
        self.settings = Settings(str(self.repository.path))
        self.begin()

    def begin(self, **changes: object) -> None:
        settings = {**{name: getattr(self.settings, name) for name in self.settings.__slots__}, **changes}
        self.settings = Settings(**settings)
        self.sync = Sync(
            self.settings, self.path / "sync", self.host, StateFile(self.path / "s.json", write_atomic)
        )

    def look(self, *, asked: bool = False) -> Verdict:
        self.now += 60
        verdict = self.sync.look(self.now, asked=asked)
        assert verdict is not None, self.sync.state.problem
        return verdict

    def problem(self) -> str:
        before = self.host.text, self.sync.state.last_good
        assert self.sync.look(self.now) is None
        assert (self.host.text, self.sync.state.last_good) == before
        return self.sync.state.problem


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_a_commit_is_applied_once(followed: Followed) -> None:
    first = followed.repository.commit(DOCUMENT, "first")
    assert followed.look().outcome is Outcome.APPLIED
    assert followed.look().commit == first
    second = followed.repository.commit(OPENED, "second")
    followed.look()
    assert followed.host.text == OPENED
    assert followed.host.taken == 2
    assert followed.sync.state.last_good == second
    assert [verdict.subject for verdict in followed.sync.state.history] == ["second", "first"]


def test_a_host_that_departed_is_brought_back(followed: Followed) -> None:
    followed.repository.commit(DOCUMENT, "first")
    followed.look()
    followed.host.text = "what somebody wrote by hand"
    followed.look()
    assert followed.host.text == DOCUMENT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BROKEN, "networks.yaml:7:"),
        (FAILING, "networks.yaml:14:"),
        (None, "no document to read"),
        ("", "networks.yaml:1:1"),
        (DOCUMENT[: len(DOCUMENT) // 2], "networks.yaml:"),
    ],
    ids=["invalid", "its test fails", "gone", "empty", "half-written"],
)
def test_what_is_wrong_changes_nothing(followed: Followed, text: str | None, why: str) -> None:
    good = followed.repository.commit(DOCUMENT, "good")
    followed.look()
    bad = followed.repository.commit(text, "bad")
    verdict = followed.look()
    assert (verdict.commit, verdict.outcome) == (bad, Outcome.REFUSED)
    assert why in verdict.why
    assert followed.host.text == DOCUMENT
    assert followed.sync.state.last_good == good
    followed.look()
    assert len(followed.sync.state.history) == 2  # the same verdict again is one line
    followed.repository.commit(OPENED, "put right")
    assert followed.look().outcome is Outcome.APPLIED


def test_a_directory_in_the_place_of_the_file(followed: Followed) -> None:
    followed.repository.commit(DOCUMENT, "deep", file="networks.yaml/other")
    assert "is a directory" in followed.look().why


def test_a_rewritten_history_is_refused_until_it_is_allowed(followed: Followed) -> None:
    first = followed.repository.commit(DOCUMENT, "first")
    followed.repository.commit(OPENED, "second")
    followed.look()
    followed.repository.git("reset", "--quiet", "--hard", first)
    assert "history was rewritten" in followed.look().why
    other = followed.repository.commit(DOCUMENT + "# another\n", "another second")
    assert "history was rewritten" in followed.look().why
    assert followed.host.text == OPENED
    followed.begin()  # and after a restart
    assert "history was rewritten" in followed.look().why
    followed.begin(allow_rewind=True)
    assert followed.look().outcome is Outcome.APPLIED
    assert followed.sync.state.last_good == other


def test_a_branch_or_repository_that_is_gone(followed: Followed) -> None:
    followed.repository.commit(DOCUMENT, "first")
    followed.look()
    followed.repository.git("branch", "-m", "main", "elsewhere")
    assert "there is no branch 'main'" in followed.problem()
    away = followed.repository.path.rename(followed.path / "away")
    assert "the repository cannot be read" in followed.problem()
    away.rename(followed.repository.path)
    followed.repository.git("branch", "-m", "elsewhere", "main")
    assert followed.look().outcome is Outcome.APPLIED
    assert followed.sync.state.problem == ""


def test_a_damaged_copy_is_made_again(followed: Followed) -> None:
    good = followed.repository.commit(DOCUMENT, "first")
    followed.look()
    (followed.path / "sync/repository.git/HEAD").write_text("")
    followed.repository.commit(OPENED, "second")
    assert followed.look().outcome is Outcome.APPLIED
    assert followed.sync.state.last_good != good


def test_a_damaged_state_is_a_fresh_one(followed: Followed) -> None:
    followed.repository.commit(DOCUMENT, "first")
    followed.look()
    for damage in ("", "{}", "[]", '{"history": [1]}', '{"history": [], "elephants": 1}'):
        (followed.path / "s.json").write_text(damage)
        assert StateFile(followed.path / "s.json", write_atomic).load() == SyncState()
    followed.begin()
    assert followed.look().outcome is Outcome.APPLIED


def test_only_signed_commits(followed: Followed) -> None:
    ours, theirs = ssh_key(followed.path / "ours"), ssh_key(followed.path / "theirs")
    followed.begin(allowed_signers=allow(followed.path / "signers", ours))
    followed.repository.commit(DOCUMENT, "unsigned")
    assert "has signed it" in followed.look().why
    followed.repository.commit(DOCUMENT, "signed by somebody else", theirs)
    assert "has signed it" in followed.look().why
    assert followed.host.taken == 0
    followed.repository.commit(DOCUMENT, "signed", ours)
    signed = followed.look()
    assert signed.outcome is Outcome.APPLIED
    assert (signed.author, signed.signer) == ("Somebody <somebody@example.net>", "somebody@example.net")
    followed.repository.commit(OPENED, "unsigned on top")
    assert followed.look().outcome is Outcome.REFUSED
    followed.repository.git("-c", f"user.signingkey={theirs}", "tag", "-s", "-m", "theirs", "v1")
    followed.repository.git("tag", "-a", "-m", "unsigned", "v2")
    assert followed.look().outcome is Outcome.REFUSED
    followed.repository.git("-c", f"user.signingkey={ours}", "tag", "-s", "-m", "ours", "v3")
    tagged = followed.look()
    assert (tagged.outcome, tagged.signer) == (Outcome.APPLIED, "the tag v3")
    allow(followed.path / "signers")
    followed.repository.commit(DOCUMENT, "by who may no longer", ours)
    assert followed.look().outcome is Outcome.REFUSED
    (followed.path / "signers").unlink()
    assert "there is no allowed signers file" in followed.look().why


def test_a_signature_moved_to_another_commit(followed: Followed) -> None:
    key = ssh_key(followed.path / "key")
    followed.begin(allowed_signers=allow(followed.path / "signers", key))
    signed = followed.repository.commit(DOCUMENT, "signed", key)
    raw = followed.repository.git("cat-file", "commit", signed)
    followed.repository.commit(OPENED, "other")
    tree = followed.repository.git("rev-parse", "HEAD^{tree}")
    forged = f"tree {tree}\n" + raw.split("\n", 1)[1] + "\n"
    done = subprocess.run(
        ["git", "-C", str(followed.repository.path), "hash-object", "-t", "commit", "-w", "--stdin"],
        input=forged,
        capture_output=True,
        text=True,
        check=True,
        timeout=BUSY_S,
    )
    followed.repository.git("reset", "--quiet", "--hard", done.stdout.strip())
    assert followed.look().outcome is Outcome.REFUSED


def test_what_was_rolled_back_is_tried_again_only_when_asked(followed: Followed) -> None:
    followed.host.answer = Taken(Outcome.ROLLED_BACK, "it lost its way")
    followed.repository.commit(DOCUMENT, "cuts the host off")
    assert followed.look().why == "it lost its way"
    assert followed.look().outcome is Outcome.ROLLED_BACK
    assert followed.host.taken == 1
    followed.host.answer = Taken(Outcome.APPLIED)
    assert followed.look(asked=True).outcome is Outcome.APPLIED
    assert followed.host.again


def test_what_failed_is_tried_in_every_round(followed: Followed) -> None:
    followed.host.answer = Taken(Outcome.FAILED, "no agent runs")
    followed.repository.commit(DOCUMENT, "first")
    assert followed.look().outcome is Outcome.FAILED
    followed.host.answer = Taken(Outcome.APPLIED)
    assert followed.look().outcome is Outcome.APPLIED
    saved = json.loads((followed.path / "s.json").read_text())
    assert [row["outcome"] for row in saved["history"]] == ["applied", "failed"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"branch": "--upload-pack=x"}, "cannot be read"),
        ({"branch": "a..b"}, "cannot be read"),
        ({"repository": "--upload-pack=touch x"}, "cannot be read"),
        ({"repository": "ext::sh -c touch% x"}, "cannot be read"),
    ],
)
def test_settings_are_no_options(followed: Followed, settings: dict[str, str], says: str) -> None:
    followed.begin(**settings)
    assert says in followed.problem()
    assert not list(followed.path.rglob("x"))


def test_a_password_is_not_shown() -> None:
    assert shown_url("https://user:secret@example.net/x.git") == "https://example.net/x.git"
    assert shown_url("https://token@example.net/x.git") == "https://example.net/x.git"
    assert shown_url("ssh://git@example.net/x.git") == "ssh://git@example.net/x.git"
    assert shown_url("git@example.net:x.git") == "git@example.net:x.git"
