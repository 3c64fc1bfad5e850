"""Real Ansible and real Git with hostile words: a file that only a command could make is never made."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netctl.fleet.ansible import TaskResult, Variables, play, private_directory
from netctl.fleet.sync import Settings, Sync, Taken
from netctl.fleet.syncstate import Outcome, StateFile
from netctl.system.files import write_atomic

pytestmark = pytest.mark.netns

NETCTL = str(Path(sys.executable).with_name("netctl"))
KEY = "g" + "A" * 42 + "="
DOCUMENT = """apiVersion: netctl/v1
mediators: []
members:
  {name}: {{wireguard: "{key}", host: {host}, endpoints: ["192.0.2.1:51820"]}}
networks: {{office: {{mode: routed, ipv4: 10.8.0.0/24, members: ["*"], addresses: {{{name}: 10.8.0.1}}}}}}
"""
SECRET = "correct-horse-battery"
QUICK = {"ANSIBLE_TIMEOUT": "2", "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_SSH_RETRIES": "0"}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that nobody makes but a word that acts."""
    return tmp_path / "mark"


def netctl(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [NETCTL, "--config", str(directory / "networks.yaml"), *words],
        cwd=directory,
        env={**os.environ, **QUICK},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def lookup(mark: Path) -> str:
    return f"{{{{ lookup('pipe', 'touch {mark}') }}}}"


@pytest.mark.parametrize("words", [("rollout", "--check"), ("rollout", "--enrol"), ("rollout", "--yes")])
@pytest.mark.parametrize("how", ["lookup", "option", "user"])
def test_the_host_of_a_member_is_no_program(
    how: str, words: tuple[str, ...], tmp_path: Path, mark: Path
) -> None:
    host = {
        "lookup": lookup(mark),
        "option": f"-oProxyCommand=touch {mark}",
        "user": f"{lookup(mark)}@127.0.0.1",
    }[how]
    (tmp_path / "networks.yaml").write_text(DOCUMENT.format(name="nas", key=KEY, host=f'"{host}"'))
    done = netctl(tmp_path, *words)
    assert done.returncode == 1
    assert "host" in done.stderr
    assert not mark.exists()


def test_nor_is_the_name_of_one_that_has_no_key_yet(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "networks.yaml").write_text(f'members:\n  "{lookup(mark)}": {{host: 127.0.0.1}}\n')
    done = netctl(tmp_path, "rollout", "--enrol")
    assert done.returncode == 1
    assert "no name of a member" in done.stderr
    assert not mark.exists()


class Told:
    """What a play said, and what stood in the list of processes meanwhile."""

    def __init__(self) -> None:
        self.results: list[TaskResult] = []
        self.processes: list[str] = []

    def __call__(self, result: TaskResult) -> None:
        self.results.append(result)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if "ansible" in words:
                self.processes.append(words)


def local(said: str) -> list[dict[str, Any]]:
    """A play that says something where it runs, on no other host."""
    task = {"name": "Say", "ansible.builtin.debug": {"msg": said}}
    return [{"hosts": "all", "gather_facts": False, "tasks": [task]}]


def test_what_ansible_is_given_is_data_even_past_the_schema(mark: Path) -> None:
    told, word = Told(), lookup(mark)
    hosts = {
        "nas": {"ansible_host": word, "ansible_user": word},
        "all": {"ansible_host": "127.0.0.1", "x": word},
    }
    with private_directory() as private:
        said = play(
            private, local("{{ given }} {{ ansible_host }}"), hosts, ["nas"], told, data={"given": word}
        )
    assert said == ""
    assert [(result.host, result.state) for result in told.results if result.state != "start"] == [
        ("nas", "ok")
    ]
    assert told.results[-1].result["msg"] == f"{word} {word}"
    assert not mark.exists()


@pytest.mark.parametrize("name", ["all", "ungrouped"])
def test_a_member_that_ansible_takes_for_every_host(name: str, tmp_path: Path) -> None:
    (tmp_path / "networks.yaml").write_text(DOCUMENT.format(name=name, key=KEY, host="127.0.0.1"))
    for words in (("rollout", "--check"), ("rollout", "--enrol")):
        done = netctl(tmp_path, *words)
        assert done.returncode == 1
        assert "means every host" in done.stderr


def test_the_users_own_variables_are_templates_and_stand_in_no_argv(tmp_path: Path) -> None:
    told, more = Told(), tmp_path / "more.yaml"
    more.write_text(f"other: {SECRET}-of-a-file\n")
    own = Variables({"password": SECRET, "two": "{{ 1 + 1 }}"}, (more,))
    with private_directory() as private:
        hosts = {"nas": {"ansible_host": "127.0.0.1"}}
        assert (
            play(private, local("{{ password }} {{ two }} {{ other }}"), hosts, ["nas"], told, variables=own)
            == ""
        )
    assert told.results[-1].result["msg"] == f"{SECRET} 2 {SECRET}-of-a-file"
    assert told.processes
    assert not [words for words in told.processes if SECRET in words]


@pytest.mark.parametrize("who", ["ours", "everybody", "somebody"])
def test_an_ansible_cfg_that_others_can_write_is_not_read(who: str, tmp_path: Path, mark: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o755)
    ssh = place / "ssh"
    ssh.write_text(f"#!/bin/sh\ntouch {mark}\nexit 255\n")
    ssh.chmod(0o755)
    (place / "ansible.cfg").write_text(
        f"[connection]\npipelining = True\n[ssh_connection]\nssh_executable = {ssh}\n"
    )
    (place / "networks.yaml").write_text(DOCUMENT.format(name="nas", key=KEY, host="root@127.0.0.1:9"))
    if who == "everybody":
        place.chmod(0o777)
    if who == "somebody":
        if os.geteuid() != 0:
            pytest.skip("not root: a directory cannot be given to somebody else")
        os.chown(place, 65534, 65534)
    done = netctl(place, "rollout", "--check")
    assert mark.exists() is (who == "ours"), done.stderr
    assert ("is not read" in done.stderr) is (who != "ours")


@pytest.mark.parametrize("name", ["all", "a:b", "x*", "~.*", "@/etc/passwd", "nas,other", "!nas"])
def test_a_name_of_the_users_inventory_that_means_more_than_a_host(name: str, tmp_path: Path) -> None:
    (tmp_path / "networks.yaml").write_text(DOCUMENT.format(name="nas", key=KEY, host="127.0.0.1"))
    inventory = tmp_path / "inventory.json"
    hosts = {name: {"netctl_member": "nas", "ansible_host": "127.0.0.1"}}
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    done = netctl(tmp_path, "rollout", "--check", "-i", str(inventory))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "name hosts by" in done.stderr or "no host of" in done.stderr or "cannot be read" in done.stderr


# -- Git ----------------------------------------------------------------------------------------------------------


class Nobody:
    """A host that lives by nothing."""

    def holds(self, text: str) -> bool:
        return False

    def take(self, text: str, commit: str, still_reachable: Any, *, again: bool) -> Taken:
        return Taken(Outcome.APPLIED)


def follow(repository: str, directory: Path, branch: str = "main") -> Sync:
    states = StateFile(directory / "state.json", write_atomic)
    return Sync(Settings(repository, branch), directory / "sync", Nobody(), states)


@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c touch% {mark}",
        "--upload-pack=touch {mark}",
        "ssh://-oProxyCommand=touch%20{mark}/x",
        "-oProxyCommand=touch {mark}:x",
        "file:///nowhere;touch {mark}",
        "$(touch {mark})",
        "fd::17/x",
    ],
)
def test_a_repository_is_no_program(
    repository: str, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a careless user may have it; of itself Git refuses `ext::` only where nobody has allowed it.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    sync = follow(repository.format(mark=mark), tmp_path)
    assert sync.look(0.0) is None
    assert sync.state.problem
    assert not sync.reachable()
    assert not mark.exists()


@pytest.mark.parametrize(
    "branch", ["--upload-pack=touch {mark}", "x:refs/heads/y", "a b", "@{{-1}}", "-x", "*"]
)
def test_a_branch_is_no_option(branch: str, tmp_path: Path, mark: Path) -> None:
    sync = follow(str(tmp_path / "nowhere.git"), tmp_path, branch.format(mark=mark))
    assert sync.look(0.0) is None
    assert not mark.exists()


@contextmanager
def server() -> Iterator[tuple[int, list[str], list[str]]]:
    """An HTTP server that knows no repository: who authorised how, and Git's processes at that moment."""
    asked: list[str] = []
    processes: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization", ""))
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if "git" in words.partition(" ")[0]:
                    processes.append(words)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    listening = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield listening.server_address[1], asked, processes
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.mark.parametrize("login", [f"robot:{SECRET}", SECRET, f"robot:{SECRET}%21"])
def test_the_token_of_a_repository_stands_in_no_argv(login: str, tmp_path: Path) -> None:
    with server() as (port, asked, processes):
        sync = follow(f"http://{login}@127.0.0.1:{port}/net.git", tmp_path)
        assert sync.look(0.0) is None
    user, _, password = login.replace("%21", "!").partition(":")
    assert set(asked) == {"Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    assert any("remote-http" in words for words in processes)
    assert not [words for words in processes if SECRET in words]
    assert SECRET not in sync.state.problem
    assert SECRET not in (tmp_path / "state.json").read_text()
