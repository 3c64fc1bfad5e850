"""What `test_image.py` runs in namespaces of its own: examples/compose.yaml, by podman-compose or by Docker's.

The steps, one by one, are those in the file's own comment. The application is one that needs no image from anywhere.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.machines.composing import Compose, docker_compose, network, podman_compose
from tests.machines.engine import engine, load
from tests.machines.images import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples/compose.yaml"
SERVER = "198.51.100.1"
SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=80, bind='0.0.0.0')"
APP = f"""
services:
  app:
    image: netctl-member
    entrypoint: [/usr/lib/netctl/bin/python3, -c, "{SERVE}"]
"""
CALL = "import urllib.request as u; print(u.urlopen('http://app.home.netctl', timeout=20).status)"


def main(store: Path, place: Path, root: Path | None = None) -> None:
    """With a third argument by Docker's Compose: the root file system of its engine."""
    network(place, SERVER)
    (place / "compose.yaml").write_text(EXAMPLE.read_text())
    (place / "app.yaml").write_text(APP)
    files = ("compose.yaml", "app.yaml")
    if root is None:
        steps(podman_compose(place, store, "lan", *files), place)
    else:
        work = place.with_name("engine")
        work.mkdir()
        with engine(root, work, place) as docker:
            load(docker, store, place, "netctl-mediator", "netctl-member")
            steps(docker_compose(place, docker, *files), place)
    print("ok: compose")


def steps(compose: Compose, place: Path) -> None:
    """The steps, and the application's answer at the member's name."""
    compose("run", "--rm", "mediator", "setup", SERVER)
    assert (place / "netctl/networks.yaml").exists()
    compose("up", "-d", "mediator", "relay")
    wait_for(
        "the mediator answers",
        lambda: '"relay"' in compose.inside("mediator", "netctl-mediator", "status", "-o", "json"),
    )
    (place / "invite").write_text(compose.inside("mediator", "netctl", "invite", "home", "--uses", "2"))
    compose("up", "-d", "member", "app")

    def joined() -> bool:
        said = compose.inside("member", "netctl", "status", "-o", "json")
        return said.startswith("{") and bool(json.loads(said)["networks"])

    wait_for("the side-car is on the LAN", joined)
    # The application has no network but the member's, so it answers at the member's address on the LAN.
    wait_for(
        "the application answers",
        lambda: compose.inside("member", "/usr/lib/netctl/bin/python3", "-c", CALL).strip() == "200",
    )
    compose("restart", "mediator")
    wait_for(
        "the member is back",
        lambda: '"connected"' in compose.inside("member", "netctl", "status", "-o", "json"),
    )
    compose("down", "-v", check=False)


if __name__ == "__main__":
    os.environ["CONTAINERS_CONF"] = str(Path(sys.argv[2]) / "containers.conf")
    main(*map(Path, sys.argv[1:]))
