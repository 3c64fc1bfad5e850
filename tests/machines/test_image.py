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
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", base], check=True, timeout=600)
    subprocess.run(
        ["podman", *run, "import", "--quiet", base, "localhost/debian:12"], check=True, timeout=300
    )
    base.unlink()
    packages = directory / "packages"
    build = [sys.executable, ROOT / "packaging/build.py", "deb", "debian12", "--into", packages]
    subprocess.run(build, check=True, timeout=600)
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "BUILDAH_OPTIONS": " ".join(run)}
    script = [ROOT / "packaging/container/build", "localhost/debian:12", packages]
    subprocess.run(script, check=True, timeout=600, env=environment)
    return place


def test_a_mediator_and_two_members_in_containers(store: Path, tmp_path: Path) -> None:
    apart = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    environment = {**os.environ, "CONTAINERS_CONF": str(tmp_path / "containers.conf")}
    done = subprocess.run(
        [*apart, sys.executable, Path(__file__).with_name("images.py"), store, tmp_path],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "over the overlay" in done.stdout
