"""Root file systems of distributions, made by mmdebstrap once and kept in .cache/machines.

How packages are reached is what this machine's apt and pip say at run time: no mirror and no index is named here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "machines"
BUILD_TIMEOUT_S = 1500.0
"""A mirror at 1 MB/s, on a machine that does other work."""
BOOTED = (
    *("apt", "systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "nftables", "iproute2"),
    *("iputils-ping", "conntrack", "procps", "git", "ca-certificates", "libssl3"),
    *("libseccomp2", "libstdc++6"),
)
"""What a machine has that is booted: Debian's least, and what the README says to install."""
FRESH = ("apt", "python3", "git", "make", "ca-certificates")
"""What the README wants of a machine before its two commands."""
PLATFORMS = (
    *("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_27_x86_64"),
    *("manylinux_2_17_x86_64", "manylinux2014_x86_64"),
)
# For `set -e` in a mount namespace of its own, without propagation: $1 is a root file system, which stays as it is, and
# $2 a directory for what is written to it.
OVER = """
root=$2/root
mkdir "$2/upper" "$2/work" "$root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
"""
# A pivot and no chroot: nsenter(1) into a mount namespace leaves a chroot, and would find this machine's processes, and
# their network, under the numbers of the container's.
PIVOT = """
cd "$root"
mkdir -p mnt/machine
pivot_root . mnt/machine
cd /
umount --lazy /mnt/machine
rmdir /mnt/machine
"""
UBUNTU_KEYS = Path("usr/share/keyrings/ubuntu-archive-keyring.gpg")


class CannotBeHad(Exception):
    """Why this machine cannot make such a root file system."""


@dataclass(frozen=True)
class Distribution:
    """`python`: the version that it has."""

    name: str
    suite: str
    python: str
    ubuntu: bool = False


DISTRIBUTIONS = {
    one.name: one
    for one in (
        Distribution("debian12", "bookworm", "3.11"),
        Distribution("debian13", "trixie", "3.13"),
        Distribution("ubuntu24.04", "noble", "3.12", ubuntu=True),
    )
}


def why_not() -> str | None:
    """Why no machine can be made or booted here. None: it can."""
    if os.geteuid() != 0:
        return "machines: not root"
    for program, package in (("mmdebstrap", "mmdebstrap"), ("systemd-nspawn", "systemd-container")):
        if shutil.which(program) is None:
            return f"machines: {program} is not installed (package {package})"
    if not Path("/dev/net/tun").exists():
        return "machines: no /dev/net/tun"
    probe = (  # a name of its own: all who look at the same time see one cgroup tree
        "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && "
        "mkdir /sys/fs/cgroup/netctl-probe-$$ && rmdir /sys/fs/cgroup/netctl-probe-$$"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", probe], capture_output=True, text=True
    )
    return f"machines: no cgroup2 of their own ({done.stderr.strip()})" if done.returncode else None


def base(distribution: Distribution, packages: tuple[str, ...], kind: str) -> Path:
    """The directory of a root file system with these packages. Raises CannotBeHad."""
    wanted = tuple(
        "libssl3t64" if one == "libssl3" and distribution.python != "3.11" else one for one in packages
    )
    mark = hashlib.sha256(repr((distribution, wanted, _mirror(distribution))).encode()).hexdigest()[:12]
    place = CACHE / f"{distribution.name}-{kind}-{mark}"
    if (place / "ready").exists():
        return place / "root"
    keys = _ubuntu_keys() if distribution.ubuntu else None
    for old in CACHE.glob(f"{distribution.name}-{kind}-*"):
        _remove(old)
    place.mkdir(parents=True)
    options = place / "apt.conf"
    options.write_text(apt_settings())
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory"]
    command += [f"--aptopt={options}", f"--include={','.join(wanted)}"]
    command += [f"--keyring={keys}"] if keys else []
    command += ["--components=main,universe"] if distribution.ubuntu else []
    mirror = _mirror(distribution)
    command += [distribution.suite, str(place / "root"), *([mirror] if mirror else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    if done.returncode != 0:
        _remove(place)
        raise CannotBeHad(f"machines: mmdebstrap {distribution.suite}: {done.stderr.strip()[-500:]}")
    (place / "ready").touch()
    return place / "root"


def with_locked_packages(distribution: Distribution) -> Path:
    """A root file system to boot, with the locked packages of a mediator in /opt/netctl. Raises CannotBeHad."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # two workers want the same one, and none while it is being made
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _with_locked_packages(distribution)


def _with_locked_packages(distribution: Distribution) -> Path:
    root = base(distribution, BOOTED, "booted")
    locked = requirements_for((ROOT / "requirements" / "mediator.txt").read_text(), distribution.python)
    mark = root.parent / f"locked-{hashlib.sha256(locked.encode()).hexdigest()[:12]}"
    if mark.exists():
        return root
    wheels = root.parent / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    listed = root.parent / "requirements.txt"
    listed.write_text(locked)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), "--require-hashes"]
    command += ["--no-deps", "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", distribution.python, "--requirement", str(listed)]
    for platform in (*PLATFORMS, "any"):
        command += ["--platform", platform]
    subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)
    inside = (
        'mount -t proc proc "$1/proc"; mount --bind "$2" "$1/mnt"; chroot "$1" sh -ec \''
        "rm -rf /opt/netctl; python3 -I -m venv /opt/netctl; /opt/netctl/bin/pip install --quiet "
        "--disable-pip-version-check --no-cache-dir --no-index --no-deps /mnt/*.whl'"
    )
    subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            inside,
            "inside",
            str(root),
            str(wheels),
        ],
        check=True,
        timeout=BUILD_TIMEOUT_S,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
    )
    shutil.rmtree(wheels)
    mark.touch()
    return root


def requirements_for(locked: str, python: str) -> str:
    """What of a locked set a CPython of this version on Linux installs, without conditions.

    pip judges a condition by the Python that it runs on, whatever `--python-version` says.
    """
    target = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    kept = []
    lines = (line for line in locked.splitlines() if not line.lstrip().startswith("#"))
    for entry in "\n".join(lines).replace("\\\n", "").splitlines():
        requirement, *hashes = entry.split(" --hash=")
        name, _, condition = requirement.partition(";")
        if not condition or Marker(condition).evaluate(target):
            kept.append(" --hash=".join([name.strip(), *(one.strip() for one in hashes)]) + "\n")
    return "".join(kept)


def apt_settings() -> str:
    """How this machine's apt reaches its packages (proxies, certificates, dates), as lines of apt.conf."""
    said = _said(["apt-config", "dump"]) if shutil.which("apt-config") else ""
    kept = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
    return "".join(f"{line}\n" for line in said.splitlines() if line.startswith(kept) and '""' not in line)


def pip_settings() -> dict[str, str]:
    """How this machine's pip reaches its index, as variables of the environment."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "SSL_CERT_", "REQUESTS_CA_")) or name.lower().endswith("_proxy")
    }


def _mirror(distribution: Distribution) -> str:
    """Where this machine gets packages of that distribution's family; empty: mmdebstrap's own choice."""
    if not shutil.which("apt-get"):
        return ""
    family = "Ubuntu" if distribution.ubuntu else "Debian"
    targets = _said(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages"]
    )
    for line in targets.splitlines():
        origin, codename, address = [*line.split("|"), "", ""][:3]
        if origin == family and not codename.endswith(("-security", "-updates", "-backports")):
            return address.rstrip("/")
    return ""


def _ubuntu_keys() -> Path:
    """Ubuntu's keys: this machine's own, or from Debian 13's package of them, which Debian has signed."""
    own = Path("/") / UBUNTU_KEYS
    if own.exists():
        return own
    place = CACHE / "ubuntu-keys"
    if not (place / UBUNTU_KEYS).exists():
        root = base(DISTRIBUTIONS["debian13"], BOOTED, "booted")
        script = (
            'mount -t tmpfs tmpfs "$1/run"; mount -t tmpfs tmpfs "$1/var/lib/apt/lists"; cp "$2" "$1/run/apt.conf"; '
            'mount --bind "$3" "$1/mnt"; chroot "$1" sh -ec \'export APT_CONFIG=/run/apt.conf; apt-get -qq update; '
            "cd /mnt; apt-get -qq -o APT::Sandbox::User=root download ubuntu-keyring; dpkg-deb -x ./*.deb .'"
        )
        place.mkdir(parents=True, exist_ok=True)
        settings = place / "apt.conf"
        settings.write_text(apt_settings())
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "keys"]
        done = subprocess.run(
            [*command, str(root), str(settings), str(place)], capture_output=True, text=True
        )
        if not (place / UBUNTU_KEYS).exists():
            raise CannotBeHad(f"machines: no keys of Ubuntu's archive here: {done.stderr.strip()[-300:]}")
    return place / UBUNTU_KEYS


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _remove(place: Path) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", str(place)], check=True)
