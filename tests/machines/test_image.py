"""The container images: built from the packages, and run: a mediator and two members that join by invite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS = ("mmdebstrap", "buildah", "podman", "unshare")
MISSING = [name for name in NEEDS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(os.geteuid() != 0, reason="building a root file system needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (`scripts/setup image`)"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with both images, built on a Debian 12 made here: no image is fetched from anywhere."""
    directory = tmp_path_factory.mktemp("images")
    base, place = directory / "base.tar", directory / "store"
    run = ["--root", str(place), "--runroot", str(directory / "run")]
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(base)], check=True, timeout=600
    )
    subprocess.run(
        ["podman", *run, "import", "--quiet", base, "localhost/debian:12"], check=True, timeout=300
    )
    base.unlink()
    packages = directory / "packages"
    build = [sys.executable, str(ROOT / "packaging/build.py"), "deb", "debian12", "--into", str(packages)]
    subprocess.run(build, check=True, timeout=600)
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "BUILDAH_OPTIONS": " ".join(run)}
    script = [str(ROOT / "packaging/container/build"), "localhost/debian:12", str(packages)]
    subprocess.run(script, check=True, timeout=600, env=environment)
    return place


def in_namespaces_of_its_own(script: str, store: Path, place: Path, first: str = "") -> str:
    """What one of the scripts beside this file prints. `first`: a directory that is looked into before all others."""
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environment = {**os.environ, "CONTAINERS_CONF": str(place / "containers.conf")}
    environment["PATH"] = f"{first}:{environment['PATH']}"
    command = [*apart, sys.executable, str(Path(__file__).with_name(script)), str(store), str(place)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_mediator_and_two_members_in_containers(store: Path, tmp_path: Path) -> None:
    assert "over the overlay" in in_namespaces_of_its_own("images.py", store, tmp_path)


def test_the_mediators_image_has_what_the_cluster_example_wants(store: Path, tmp_path: Path) -> None:
    """Its user without rights, directories that belong to this user, and what a store and a bus need."""
    podman = ["podman", "--root", str(store), "--runroot", str(store.with_name("run"))]
    podman += ["--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "none", "--ulimit", "host"]
    podman += ["--cgroups=disabled", "--user", "8443:8443", "--read-only", "--cap-drop", "all"]
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environment = {**os.environ, "CONTAINERS_CONF": str(tmp_path / "containers.conf")}
    (tmp_path / "containers.conf").write_text("[containers]\ndefault_ulimits = []\n")

    def run(*words: str) -> str:
        command = [*apart, *podman, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run("netctl-mediator", "init", "--host", "m1.example.net")
    assert "ed25519:" in said
    said = run("netctl-mediator", "init", "--relay", "--state", "/var/lib/netctl-relay")
    assert "role: relay" in said
    python = "/usr/lib/netctl/bin/python3"
    said = run(
        "--entrypoint", python, "netctl-mediator", "-c", "import nats, psycopg; print(psycopg.pq.version())"
    )
    assert int(said) > 0


def test_the_example_for_compose(store: Path, tmp_path: Path) -> None:
    """By podman-compose of the package index: Debian 12's knows no `network_mode` beside a network of its own."""
    environment, place = tmp_path / "environment", tmp_path / "place"
    place.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=300)
    install = [str(environment / "bin/pip"), "install", "--quiet", "podman-compose>=1.6,<2"]
    subprocess.run(install, check=True, timeout=300)
    said = in_namespaces_of_its_own("composed.py", store, place, first=str(environment / "bin"))
    assert "ok: compose" in said
