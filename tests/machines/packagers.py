"""What installs, upgrades and removes netctl's packages on a machine: dpkg, and rpm."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.machines.rootfs import BOOTED, DISTRIBUTIONS, base, with_locked_packages

PLACE = "/mnt/packages"
"""Where a machine sees the packages."""
STAND_IN = {
    "/bin/sh": "dash",
    "python(abi) = 3.13": "python3.13",
    "glibc = 2.41": "libc6",
    "libgcc": "libgcc-s1",
    "libstdc++": "libstdc++6",
    "libz.so.1()(64bit)": "zlib1g",
    "libseccomp": "libseccomp2",
    "openssl-libs": "libssl3t64",
    "nftables": "nftables",
}
"""What Fedora 42 calls what Debian 13 has of the same versions: Fedora's name, Debian's package."""


@dataclass(frozen=True)
class Dpkg:
    """Debian and Ubuntu. Machines in here reach no mirror: `dpkg` does what `apt install ./…` does without."""

    distribution: str
    kind: str = "deb"

    def lower(self) -> Path:
        """The root file system that a machine starts from. Raises CannotBeHad."""
        return with_locked_packages(DISTRIBUTIONS[self.distribution])

    def prepare(self, place: Path) -> None:
        """What else lies beside the packages: nothing."""

    def install(self, revision: str, *names: str) -> str:
        """The command that installs, upgrades or downgrades to that revision."""
        return f"dpkg --install --force-downgrade {' '.join(f'{PLACE}/{name}_*-{revision}~*.deb' for name in names)}"

    def remove(self, *names: str) -> str:
        """The command that takes the packages away, and all that was theirs."""
        return f"dpkg --purge {' '.join(names)}"


@dataclass(frozen=True)
class Rpm:
    """Fedora 42's package on Debian 13, which has the same Python and C library, by rpm itself."""

    distribution: str
    kind: str = "rpm"
    program: str = "rpm --dbpath /var/lib/rpm"

    def lower(self) -> Path:
        """The root file system that a machine starts from. Raises CannotBeHad."""
        return base(DISTRIBUTIONS["debian13"], (*BOOTED, "rpm"), "rpm")

    def prepare(self, place: Path) -> None:
        """A package that provides, by Fedora's names, what the machine has, so that rpm itself resolves."""
        provides = "".join(f"Provides: {name}\n" for name in STAND_IN)
        spec = place / "stand-in.spec"
        spec.write_text(
            f"Name: stand-in\nVersion: 1\nRelease: 1\nSummary: what this machine has\nLicense: MIT\n"
            f"BuildArch: noarch\n{provides}%description\nNothing.\n%files\n"
        )
        defines = {"_topdir": str(place / "rpmbuild"), "_rpmdir": str(place), "_rpmfilename": "stand-in.rpm"}
        command = ["rpmbuild", "-bb", "--quiet"]
        for key, value in defines.items():
            command += ["--define", f"{key} {value}"]
        subprocess.run([*command, str(spec)], check=True)
        shutil.rmtree(place / "rpmbuild")

    def install(self, revision: str, *names: str) -> str:
        """The command that installs, upgrades or downgrades to that revision."""
        files = " ".join(f"{PLACE}/{name}-[0-9]*-{revision}.fc*.rpm" for name in names)
        have = f"{self.program} -q stand-in > /dev/null || {self.program} -i {PLACE}/stand-in.rpm; "
        return f"{have}{self.program} --upgrade --oldpackage {files}"

    def remove(self, *names: str) -> str:
        """The command that takes the packages away; rpm knows no purge."""
        return f"{self.program} --erase {' '.join(names)}"


PACKAGERS: dict[str, Dpkg | Rpm] = {name: Dpkg(name) for name in DISTRIBUTIONS} | {
    "fedora42": Rpm("fedora42")
}
