"""The container images: built from the packages, and run: a mediator and two members that join by invite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.engine import PACKAGES
from tests.machines.rootfs import DISTRIBUTIONS, CannotBeHad, base

ROOT = Path(__file__).parents[2]
NEEDS = ("mmdebstrap", "buildah", "podman", "unshare")
MISSING = [name for name in NEEDS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(os.geteuid() != 0, reason="building a root file system needs root"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (`scripts/setup image`)"),
]

FIRST_START = """#!/bin/sh
# What the entry point of the image postgres does at its first start.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --no-sync
  program=$1
  shift
  pg_ctl --wait --options="$* -c listen_addresses=" start
  for script in /docker-entrypoint-initdb.d/*.sql; do
    psql --no-psqlrc -v ON_ERROR_STOP=1 --username=postgres --no-password --dbname=postgres -f "$script"
  done
  pg_ctl --wait --mode=fast stop
  set -- "$program" "$@"
fi
exec "$@"
"""
SERVERS = {
    ("postgres", "17-bookworm"): """
FROM localhost/debian:12
RUN groupadd --system --gid 999 postgres \
 && useradd --system --uid 999 --gid 999 --home-dir /var/lib/postgresql postgres \
 && apt-get update && apt-get install -y --no-install-recommends postgresql-15 \
 && install -d -m 0700 -o 999 -g 999 /var/lib/postgresql/data
ENV PGDATA=/var/lib/postgresql/data PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY --chmod=0755 entrypoint /usr/local/bin/entrypoint
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["/usr/local/bin/entrypoint"]
""",
    ("nats", "2.10-alpine"): """
FROM localhost/debian:12
RUN apt-get update && apt-get install -y --no-install-recommends nats-server wget
""",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
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
    yield place
    # buildah leaves a mount of the directory on itself, without which it cannot be removed.
    while subprocess.run(["umount", str(place / "overlay")], capture_output=True).returncode == 0:
        pass


def in_namespaces_of_its_own(script: str, store: Path, place: Path, *more: Path, first: str = "") -> str:
    """What one of the scripts beside this file prints. `first`: a directory that is looked into before all others."""
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environment = {**os.environ, "CONTAINERS_CONF": str(place / "containers.conf")}
    environment["PATH"] = f"{first}:{environment['PATH']}"
    command = [*apart, sys.executable, str(Path(__file__).with_name(script))]
    command += [str(argument) for argument in (store, place, *more)]
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
    # This machine may have the hierarchies of version 1 too, which crun refuses.
    apart += ["sh", "-c", 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"', "sh"]
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


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of podman-compose of the package index: Debian 12's knows no `network_mode` beside a network of its
    own.
    """
    environment = tmp_path_factory.mktemp("compose") / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=300)
    install = [str(environment / "bin/pip"), "install", "--quiet", "podman-compose>=1.6,<2"]
    subprocess.run(install, check=True, timeout=300)
    return str(environment / "bin")


def test_the_example_for_compose(store: Path, compose: str, tmp_path: Path) -> None:
    assert "ok: compose" in in_namespaces_of_its_own("composed.py", store, tmp_path, first=compose)


@pytest.fixture(scope="module")
def servers(store: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the store: PostgreSQL and NATS of Debian under the names of the images that the example wants."""
    buildah = ["buildah", "--root", str(store), "--runroot", str(store.with_name("run"))]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    context = tmp_path_factory.mktemp("servers")
    (context / "entrypoint").write_text(FIRST_START)
    for (name, tag), text in SERVERS.items():
        (context / "Containerfile").write_text(text)
        build = [*buildah, "bud", "--quiet", "--format", "docker", "--tag", f"docker.io/library/{name}:{tag}"]
        subprocess.run([*build, str(context)], check=True, timeout=600, env=environment)


@pytest.mark.usefixtures("servers")
def test_the_example_of_a_cluster(store: Path, compose: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    said = in_namespaces_of_its_own("clustered.py", store, place, first=compose)
    assert "ok: the cluster" in said


@pytest.fixture(scope="module")
def docker() -> Path:
    """A root file system with Docker's engine and Compose."""
    try:
        return base(DISTRIBUTIONS["debian13"], PACKAGES, "docker")
    except CannotBeHad as error:
        pytest.skip(str(error))


def test_the_example_by_docker_compose(store: Path, docker: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    assert "ok: compose" in in_namespaces_of_its_own("composed.py", store, place, docker)


@pytest.mark.usefixtures("servers")
def test_the_example_of_a_cluster_by_docker_compose(store: Path, docker: Path, tmp_path: Path) -> None:
    """Docker's own engine starts the parts in their order, and says who is healthy."""
    place = tmp_path / "place"
    place.mkdir()
    assert "ok: the cluster" in in_namespaces_of_its_own("clustered.py", store, place, docker)
