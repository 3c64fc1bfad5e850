"""A repository drives a mediator and three members through ten commits: good, bad, unsigned, and one that cuts off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netctl.lab.internet import DOCUMENT_PATH, STATE_PATH, Lab, program
from tests.support.gitkit import Repository, allow, ssh_key
from tests.support.lablife import connected_lab, everybody_connected
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]
DOCUMENT = """apiVersion: netctl/v1
mediators:
  - url: netctl://mediator.example.net:8443
    identity: ["ed25519:sDvYGUfGFfWW3UCWyyeK1Mp+XxCqMfrDYQi69dhNiXI="]
members:
  ann:
    wireguard: "yBxrkaAxbO+X2zALlXUGohDHfugE/+Xce4Y0DrW7bQM="
    identity: "ed25519:ZZXssoRCBhP+juvMw654wpQ46Gx1PNOQmbJ689Pb2lo="
  bob:
    wireguard: "Fs9ORJXfhmhnSNzgnrM6StJ8Ujau50aDkzW4Uc64dlg="
    identity: "ed25519:ynD4IcA/2I2SjW7CMl/la8svrdjDujLoiMjgIqjBdbw="
  cat:
    wireguard: "PI7wpDo322hy6cCD8Cgp725KKagKaZ4a6iXKy32E710="
    identity: "ed25519:5iiGMaSWzSjOXjEFaGdqqx1EM3QMP7+JbrS31y2WAtk="
networks:
  net:
    mode: routed
    ipv4: 10.77.0.0/24
    members: ["*"]
"""
ACLS = """    acls:
      - {name: ping, src: ["*"], dst: ["*"], proto: icmp}
    tests:
      - {src: ann, accept: ["bob:icmp"], deny: ["bob:tcp/22"]}
"""
MEMBERS = ("ann", "bob", "cat")
EVERYBODY = ("mediator", *MEMBERS)


class Followers:
    """The lab, the repository, and a sync on every host."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.repository = Repository(directory / "repository")
        self.key, self.stranger = ssh_key(directory / "key"), ssh_key(directory / "stranger")
        self.signers = allow(directory / "signers", self.key)
        self.text = lab.text
        self.tips: list[str] = []

    def start(self) -> None:
        for name in EVERYBODY:
            command = [program("netctl"), "sync", "run", "--repository", str(self.repository.path)]
            command += ["--interval", "3600", "--verify-signatures", str(self.signers)]
            command += ["--confirm-within", "20s"]
            command += ["--write", DOCUMENT_PATH] if name == "mediator" else []
            self.lab.node(name).spawn(command, "/run/lab/sync.log")

    def status(self, name: str) -> dict[str, Any]:
        said = self.lab.node(name).attempt([program("netctl"), "sync", "status", "-o", "json"]).stdout
        answer: dict[str, Any] = json.loads(said) if said.startswith("{") else {"history": [], "problem": ""}
        return answer

    def verdicts(self) -> dict[str, str]:
        """What became of the newest commit, by host; empty where nothing has yet."""
        tip = self.repository.git("rev-parse", "main")
        rows = {name: self.status(name)["history"] for name in EVERYBODY}
        return {
            name: row[0]["outcome"] if row and row[0]["commit"] == tip else "" for name, row in rows.items()
        }

    def expect(self, default: str, why: str = "", **others: str) -> None:
        """Poke everybody, and wait for these verdicts on the newest commit."""
        for name in EVERYBODY:
            self.lab.node(name).run([program("netctl"), "sync", "now"])
        wanted = {**dict.fromkeys(EVERYBODY, default), **others}
        last: dict[str, str] = {}

        def judged() -> bool:
            last.update(self.verdicts())
            return all(last.values())

        wait_for("everybody has judged the commit", judged)
        reasons = {name: self.status(name)["history"][0]["why"] for name in EVERYBODY}
        assert last == wanted, reasons
        assert all(why in reason for name, reason in reasons.items() if wanted[name] == default), reasons

    def documents(self) -> dict[str, str]:
        """What every host lives by."""
        places = dict.fromkeys(MEMBERS, f"{STATE_PATH}/accepted.yaml")
        return {
            name: self.lab.node(name).run(["cat", place])
            for name, place in {"mediator": DOCUMENT_PATH, **places}.items()
        }


@pytest.fixture(scope="module")
def followers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followers]:
    with connected_lab(DOCUMENT) as lab:
        yield Followers(lab, tmp_path_factory.mktemp("sync"))


def test_ten_commits(followers: Followers) -> None:
    repository, key, text = followers.repository, followers.key, followers.text
    # 1: good.
    first = repository.commit(text + ACLS, "1: pings alone", key)
    followers.start()
    wait_for("every sync has judged once", lambda: all(followers.verdicts().values()))
    followers.expect("applied")
    good = text + ACLS
    assert set(followers.documents().values()) == {good}
    # 2: unsigned. 3: signed, and no document. 4: put right.
    repository.commit(text, "2: open again, unsigned")
    followers.expect("refused", "has signed it")
    repository.commit(text.replace("mode: routed", "mode: rooted"), "3: a slip of the finger", key)
    followers.expect("refused", "did you mean 'routed'?")
    assert set(followers.documents().values()) == {good}
    good = text + ACLS.replace("proto: icmp", "proto: icmp").replace("name: ping", "name: pings")
    repository.commit(good, "4: put right", key)
    followers.expect("applied")
    assert set(followers.documents().values()) == {good}
    # 5: somebody else's signature. 6: its own test fails. 7: force-push.
    repository.commit(text, "5: signed by a stranger", followers.stranger)
    followers.expect("refused", "has signed it")
    repository.commit(
        good.replace('deny: ["bob:tcp/22"]', 'accept: ["bob:tcp/22"]').replace('accept: ["bob:icmp"], ', ""),
        "6",
        key,
    )
    followers.expect("refused", "networks.yaml:")
    tip = repository.git("rev-parse", "HEAD")
    repository.git("reset", "--quiet", "--hard", first)
    repository.commit(text, "7: another history", key)
    followers.expect("refused", "history was rewritten")
    assert set(followers.documents().values()) == {good}
    repository.git("reset", "--quiet", "--hard", tip)
    # 8: a mediator that nobody can reach: members go back, whatever the file says.
    wrong = good.replace("netctl://mediator.example.net:8443", "netctl://mediator.example.net:9999")
    repository.commit(wrong, "8: a wrong port", key)
    followers.expect("rolled-back", "the mediator is out of reach", mediator="applied")
    assert followers.documents() == {**dict.fromkeys(MEMBERS, good), "mediator": wrong}
    # 9: who is not in it any more cannot take it, and stays as it is.
    without = good.replace('members: ["*"]', "members: [ann, bob]")
    without = without.replace("  cat:\n", "  cat:\n    state: absent\n")
    repository.commit(without, "9: cat leaves", key)
    followers.expect("applied", cat="failed")
    assert followers.documents() == {**dict.fromkeys(EVERYBODY, without), "cat": good}
    # 10: good.
    repository.commit(good + "# all is well\n", "10: all is well", key)
    followers.expect("applied")
    assert set(followers.documents().values()) == {good + "# all is well\n"}
    wait_for("everybody is connected", lambda: everybody_connected(followers.lab))
    subjects = [row["subject"][:1] for row in followers.status("ann")["history"]]
    assert subjects == ["1", "9", "8", "7", "6", "5", "4", "3", "2", "1"]
    # And the mediator's audit log knows which commit each document was from.
    audit = [program("netctl-mediator"), "audit", "--state", STATE_PATH, "-o", "json"]

    def told() -> list[str]:
        rows = json.loads(followers.lab.node("mediator").run(audit))
        return [row["detail"] for row in rows if row["what"] == "document"]

    commits = [
        row["commit"] for row in followers.status("mediator")["history"] if row["outcome"] == "applied"
    ]
    wanted = ["", *(f"commit {commit} of {repository.path}" for commit in reversed(commits))]
    wait_for("the newest is there", lambda: len(told()) >= len(wanted))
    assert told() == wanted


def test_a_repository_that_is_gone_changes_nothing(followers: Followers) -> None:
    before = followers.documents()
    away = followers.repository.path.rename(followers.repository.path.with_name("away"))
    for name in EVERYBODY:
        followers.lab.node(name).run([program("netctl"), "sync", "now"])
    wait_for("everybody says so", lambda: all(followers.status(name)["problem"] for name in EVERYBODY))
    assert "cannot be read" in followers.status("bob")["problem"]
    assert followers.documents() == before
    away.rename(followers.repository.path)
