"""A real agent follows its document, saved as editors and deployment tools do it, and `netctl watch` without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netctl.config.load.build import digest
from tests.netns.onehost import FILE, NETCTL, STATE, One, one_host
from tests.support.hosts import Program, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

SAVES = {
    "in-place": f"cat /run/new > {FILE}",
    "vim": f"mv {FILE} {FILE}~ && cat /run/new > {FILE} && rm {FILE}~",
    "rename": f"cp /run/new {FILE}.tmp && mv {FILE}.tmp {FILE}",
    "symlink": "mkdir -p /run/there && cp /run/new /run/there/n.yaml && "
    f"ln -s /run/there/n.yaml {FILE}.l && mv {FILE}.l {FILE}",
    "behind-the-symlink": "cat /run/new > /run/there/n.yaml",
    "another-target": "mkdir -p /run/other && cp /run/new /run/other/n.yaml && "
    f"ln -s /run/other/n.yaml {FILE}.l && mv -T {FILE}.l {FILE}",
    "a-directory-of-releases": "mkdir -p /run/releases/1 && cp /run/new /run/releases/1/n.yaml && "
    f"ln -s 1 /run/releases/now && ln -s /run/releases/now/n.yaml {FILE}.l && mv -T {FILE}.l {FILE}",
    "the-next-release": "mkdir /run/releases/2 && cp /run/new /run/releases/2/n.yaml && "
    "ln -s 2 /run/releases/next && mv -T /run/releases/next /run/releases/now && rm -r /run/releases/1",
}


@pytest.fixture
def one() -> Iterator[One]:
    with one_host() as one:
        yield one


def test_each_way_to_save_converges_the_host_once(one: One) -> None:
    one.start_agent()
    assert one.apply(one.good)[0] == 0
    for number, (way, command) in enumerate(SAVES.items()):
        address = f"10.8.0.{number + 100}"
        saved = one.good.replace("here: 10.8.0.1", f"here: {address}")
        one.host.run("sh", "-c", "cat > /run/new", text=saved)
        one.host.run("sh", "-c", command)
        wait_for(f"{way}: the address", lambda address=address: one.has(address))  # type: ignore[misc]
        wanted = {"digest": digest(saved)}
        wait_for(f"{way}: it stands", lambda wanted=wanted: one.status()["document"] == wanted)  # type: ignore[misc]
    before = one.status()
    assert before["watch"] == {"file": FILE, "error": None}
    one.host.run("sh", "-c", "echo 'networks: [' > /run/releases/2/n.yaml")
    wait_for("the broken save is said", lambda: one.status()["watch"]["error"] is not None)
    broken = one.status()
    assert f"{FILE}:1:12" in broken["watch"]["error"]
    assert broken["document"] == before["document"]
    assert one.has(address)
    assert one.netctl("watch")[0] == 1, "the agent does it already"
    assert one.agent is not None
    one.host.run("sh", "-c", f"kill $(cat {STATE}/lock)")
    said, _ = one.agent.communicate(timeout=BUSY_S)
    assert said.count("was saved and applied") == len(SAVES), said


def test_watch_without_an_agent_and_an_agent_that_does_not(one: One) -> None:
    one.write(one.good)
    watching: Program = one.start(
        "sh", "-c", f"echo $$ > /run/watch.pid; exec {NETCTL} watch --engine wireguard-go"
    )
    wait_for("the first document", lambda: one.has("10.8.0.1"))
    one.write("networks: [")
    one.write(one.bad)
    wait_for("the second", lambda: one.has("10.8.0.99"))
    one.host.run("sh", "-c", "kill -INT $(cat /run/watch.pid)")
    assert watching.wait(timeout=BUSY_S) == 130
    one.start_agent("--no-watch")
    assert one.status()["watch"] is None
    one.write(one.good)
    assert one.netctl("apply", "--yes")[1].strip().endswith("applied: 6 changes")
