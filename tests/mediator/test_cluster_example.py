"""examples/cluster: its document is valid, the role writes what its unit's addition says, and each line of its
compose.yaml names what there is. `tests/netns/test_cluster_compose_real.py` runs what that file says.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment

from mediator.shell.bus.busplace import open_bus
from mediator.shell.bus.natsbus import SUBJECTS
from mediator.shell.main import command_line
from mediator.shell.options import DEFAULT_DOCUMENT, DEFAULT_STATE
from mediator.shell.postgresplace import PostgresPlace
from netctl.config import load_document
from netctl.config.edit.fmt import format_text

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/cluster"
ROLE = ROOT / "roles/netctl_mediator"
DOCUMENT = EXAMPLE / "netctl/networks.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = [name for name, said in SERVICES.items() if said["image"] == "netctl-mediator"]
RELAY_STATE = "/var/lib/netctl-relay"


def given(name: str) -> argparse.Namespace:
    """The command line of a mediator's or relay's service."""
    return command_line().parse_args(SERVICES[name]["command"])


def mounted(name: str) -> set[str]:
    """Where a service has its files: volumes and secrets."""
    said = SERVICES[name]
    places = {text.split(":")[1] for text in said["volumes"]}
    for one in said.get("secrets", []):
        target = one if isinstance(one, str) else one["target"]
        places.add(target if target.startswith("/") else f"/run/secrets/{target}")
    return places


def variables(hosts: str = "mediators") -> dict[str, Any]:
    """What the example's playbook gives the role for these hosts."""
    (play,) = [one for one in yaml.safe_load((EXAMPLE / "play.yml").read_text()) if one["hosts"] == hosts]
    (role,) = play["roles"]
    return {name: value for name, value in role.items() if name != "role"}


def test_the_document_is_valid_and_all_mediators_have_the_same_relay_ports() -> None:
    text = DOCUMENT.read_text()
    loaded = load_document(text, "networks.yaml")
    assert loaded.warnings == ()
    assert format_text(text) == text
    full = [one for one in loaded.document.mediators if not one.relay_only]
    assert len(full) == 3
    assert len({one.relay_ports for one in full}) == 1
    assert sum(one.relay_only for one in loaded.document.mediators) == 2


def test_the_role_knows_each_variable_of_the_playbook() -> None:
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())
    known = specs["argument_specs"]["main"]["options"].keys()
    assert variables().keys() <= known
    assert variables("relays").keys() <= known
    assert variables("relays")["netctl_mediator_role"] == "relay"


def test_the_role_writes_the_units_addition() -> None:
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False)
    environment.filters["bool"] = bool
    template = environment.from_string((ROLE / "templates/cluster.conf.j2").read_text())
    written = (EXAMPLE / "cluster.conf").read_text().partition("\n")[2]
    assert template.render(variables()) == written


def test_the_command_reads_what_the_addition_says(monkeypatch: Any) -> None:
    lines = [
        line.partition("=")[2].strip('"')
        for line in (EXAMPLE / "cluster.conf").read_text().splitlines()
        if line.startswith("Environment=")
    ]
    for line in lines:
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    asked = command_line().parse_args(["serve"])
    given = variables()
    assert (asked.store, asked.bus, asked.cluster) == (given["netctl_store"], given["netctl_bus"], True)


def test_compose_has_what_the_readme_says() -> None:
    assert [name for name in OWN if given(name).command == "serve"] == ["m1", "m2", "m3"]
    assert [name for name in OWN if given(name).command == "relay"] == ["r1", "r2"]
    assert sorted(set(SERVICES) - set(OWN)) == ["db", "nats"]
    hosts = {one.host for one in load_document(DOCUMENT.read_text(), "networks.yaml").document.mediators}
    assert hosts == {alias for name in OWN for alias in SERVICES[name]["networks"]["outside"]["aliases"]}
    for name in OWN:
        assert f"/{name}:" not in str(SERVICES[name]["volumes"])  # no mediator has another's state
        assert any(text.startswith(f"{name}:") for text in SERVICES[name]["volumes"])


@pytest.mark.parametrize("name", OWN)
def test_each_path_of_a_command_line_is_a_file_that_the_service_has(name: str) -> None:
    asked = given(name)
    state, document = str(asked.state), str(asked.document)
    assert document == DEFAULT_DOCUMENT
    assert state == (DEFAULT_STATE if asked.command == "serve" else RELAY_STATE)
    assert {state, document.rpartition("/")[0]} <= mounted(name)
    named = set(re.findall(r"/run/secrets/[\w.-]+", " ".join(SERVICES[name]["command"])))
    had = {place for place in mounted(name) if place.startswith("/run/secrets/")}
    assert named == had, "every secret is used, and every one that is used is there"


def test_store_and_bus_are_verified_by_the_authority_of_the_example(tmp_path: Path) -> None:
    asked = given("m1")
    place = PostgresPlace.parse(asked.store, None)
    assert place.parameters["sslmode"] == "verify-full"
    assert [place.parameters[name] for name in ("sslrootcert", "sslcert", "sslkey")] == [
        f"/run/secrets/{name}" for name in ("ca.crt", "store.crt", "store.key")
    ]
    assert asked.bus.endswith("?tlsca=/run/secrets/ca.crt")
    assert open_bus(asked.bus.partition("?")[0] + "?tls=on", None).name == "nats://nats:4222"
    assert {place.parameters["host"], "nats"} == {"db", "nats"} <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root_or_has_a_right_that_it_does_not_need(name: str) -> None:
    said = SERVICES[name]
    user, _, group = said["user"].partition(":")
    assert user == group
    assert int(user) > 0
    assert said["cap_drop"] == ["ALL"]
    assert "cap_add" not in said
    assert "privileged" not in said
    assert "ports" not in said, "a container has an address of its own"
    assert said["security_opt"] == ["no-new-privileges:true"]
    assert said["read_only"] is True
    # Nothing but a mediator reaches PostgreSQL and NATS, and those reach nothing outside.
    assert ("inside" in said["networks"]) == (name not in ("r1", "r2"))
    assert ("outside" in said["networks"]) == (name in OWN)
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert not re.search("password=|_PASSWORD(?!_FILE)", str(said))


def test_the_users_are_those_of_the_image_and_of_the_secrets() -> None:
    script = (EXAMPLE / "make-secrets").read_text()
    image = (ROOT / "packaging/container/Containerfile").read_text()
    users = {name: SERVICES[name]["user"].partition(":")[0] for name in SERVICES}
    assert f"mediators={users['m1']} postgres={users['db']} nats={users['nats']}\n" in script
    assert f"useradd --uid {users['m1']} " in image
    assert f"-o {users['m1']} -g {users['m1']} {DEFAULT_STATE} {RELAY_STATE}" in image
    assert f"VOLUME {DEFAULT_STATE} {RELAY_STATE}\n" in image
    assert f'publish: "{SUBJECTS}", subscribe: "{SUBJECTS}"' in script


def test_every_file_that_compose_names_is_there_or_made() -> None:
    script = (EXAMPLE / "make-secrets").read_text()
    kept = [*re.findall(r"^readable \S+ (.+)", script, re.MULTILINE), "ca.crt"]
    made = {f"./secrets/{name}" for line in kept for name in line.split()}
    assert {one["file"] for one in COMPOSE["secrets"].values()} == made
    used = [
        one if isinstance(one, str) else one["source"]
        for said in SERVICES.values()
        for one in said.get("secrets", [])
    ]
    assert set(used) == COMPOSE["secrets"].keys()
    assert (EXAMPLE / ".gitignore").read_text() == "/secrets/\n"
    for said in SERVICES.values():
        for text in said["volumes"]:
            source, _, *mode = text.split(":")
            if source.startswith("."):
                assert (EXAMPLE / source).exists()
                assert mode == ["ro"]
            else:
                assert source in COMPOSE["volumes"]
    for path in re.findall(
        r"[ =\"](/etc/[\w./-]+)", str(SERVICES["db"]["command"]) + str(SERVICES["nats"]["command"])
    ):
        assert path in mounted("db") | mounted("nats")


@pytest.mark.parametrize("name", OWN)
def test_health_is_what_readyz_says(name: str) -> None:
    kind, program, option, code, address = SERVICES[name]["healthcheck"]["test"]
    assert (kind, option) == ("CMD", "-c")
    assert (
        f'HOME = Path("{program.removeprefix("/").removesuffix("/bin/python3")}")'
        in (ROOT / "packaging/build.py").read_text()
    )
    compile(code, "healthcheck", "exec")
    assert "/readyz" in code
    assert address == given(name).metrics
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[needed]


def test_the_steps_in_its_first_lines_are_commands_that_there_are() -> None:
    head = (EXAMPLE / "compose.yaml").read_text().partition("\nname:")[0]
    runs = re.findall(
        r"docker compose run --rm --no-deps (\w+) ([^#\n]*?)(?:  +#.*|)(?:, and.*|)$", head, re.MULTILINE
    )
    assert [name for name, _ in runs] == ["m1", "r1"]
    for name, words in runs:
        asked = command_line().parse_args(re.split(r"\s{2,}", words)[0].split())
        assert (asked.command, asked.relay) == ("init", name == "r1")
        assert str(asked.state) == str(given(name).state)
    assert re.search(r"^image:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_role_makes_each_directory_that_a_fresh_system_lacks() -> None:
    """Debian 12 has no /etc/sysusers.d, and a copy into a missing directory fails."""
    present = {"/etc/systemd/system", "/usr/local/bin", "/var/cache"}
    tasks = [
        task
        for name in ("present", "cluster", "systemd")
        for task in yaml.safe_load((ROLE / f"tasks/{name}.yml").read_text())
    ]
    made = {"/etc/netctl", DEFAULT_STATE}
    for task in tasks:
        if "ansible.builtin.file" in task:
            made.add(task["ansible.builtin.file"]["path"])
        for module in ("ansible.builtin.copy", "ansible.builtin.template"):
            if module in task:
                assert task[module]["dest"].rpartition("/")[0] in made | present, task["name"]
