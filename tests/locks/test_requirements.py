"""The locked sets of requirements/ agree with pyproject.toml, with each other and with what the roles install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
WANTED = {
    "dev": [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)],
    "member": PROJECT["dependencies"],
    "mediator": [*PROJECT["dependencies"], *EXTRAS["mediator"]],
    "package": [
        *PROJECT["dependencies"],
        *(line for extra in ("mediator", "postgres", "nats", "ui") for line in EXTRAS[extra]),
    ],
    "nats": [*PROJECT["dependencies"], *EXTRAS["mediator"], *EXTRAS["postgres"], *EXTRAS["nats"]],
    "postgres": [*PROJECT["dependencies"], *EXTRAS["mediator"], *EXTRAS["postgres"]],
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def pins(name: str) -> list[tuple[Requirement, int]]:
    """Each pinned package of a set, and how many hashes it has."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [
        (Requirement(line.partition("--hash")[0].strip()), line.count("--hash=sha256:")) for line in lines
    ]


def chosen(name: str, python: str) -> dict[str, str]:
    """What pip installs of a set on Linux with this Python: package to version."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, str] = {}
    for pin, _ in pins(name):
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"{pin.name} twice for Python {python}"
            found[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("name", sorted(WANTED))
def test_every_package_is_pinned_and_has_hashes(name: str) -> None:
    for pin, hashes in pins(name):
        assert re.fullmatch(r"==[0-9][^,*]*", str(pin.specifier)), pin
        assert hashes > 0, pin


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", sorted(WANTED))
def test_what_pyproject_asks_for_is_locked(name: str, python: str) -> None:
    """A dependency that is added, or a range that moves, without `make lock`."""
    locked = chosen(name, python)
    for line in WANTED[name]:
        wanted = Requirement(line)
        version = locked.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name} is not locked: run `make lock`"
        assert wanted.specifier.contains(version), f"{wanted} but {version} is locked: run `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
def test_hosts_get_what_the_tests_ran_with(python: str) -> None:
    tested = chosen("dev", python)
    for name in ("member", "mediator", "package", "postgres"):
        assert chosen(name, python).items() <= tested.items()


def test_every_supported_python_is_one_that_pyproject_names() -> None:
    named = {word.rpartition(" ")[2] for word in PROJECT["classifiers"] if "Python :: 3." in word}
    assert named == set(PYTHONS)


def test_no_index_is_named() -> None:
    """Whoever installs chooses the index; a lock that names one would work in one place alone."""
    for name in WANTED:
        assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ["member", "mediator"])
def test_the_roles_bring_the_locked_set(name: str) -> None:
    role = ROOT / "roles" / f"netctl_{name}" / "files" / "requirements.txt"
    assert role.read_bytes() == (ROOT / "requirements" / f"{name}.txt").read_bytes()


@pytest.mark.parametrize("name", ["postgres", "nats"])
def test_the_mediators_role_brings_the_locked_set_of_store_and_bus(name: str) -> None:
    there = ROOT / "roles/netctl_mediator/files" / f"requirements-{name}.txt"
    assert there.read_bytes() == (ROOT / "requirements" / f"{name}.txt").read_bytes()
