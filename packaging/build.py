"""Builds Debian and RPM packages: netctl (every host) and netctl-mediator (the server beside it).

A package brings a virtual environment of its own in /usr/lib/netctl: the locked packages of requirements/ as wheels
for the Python of the target, checked by their hashes, and netctl itself. It runs on the distribution's Python, so
there is a package for each distribution. Nothing of a target is run here: any machine builds for all of them.

The same commit gives the same bytes: times are those of the commit (SOURCE_DATE_EPOCH), names are sorted.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = Path("usr/lib/netctl")
"""The virtual environment of both packages, below the root of the target."""
UNITS = Path("usr/lib/systemd/system")
PROGRAMS = {
    "netctl": ("netctl.cli.entry", "netctl"),
    "netctl-wg": ("netctl.wg.main", "netctl"),
    "netctl-mediator": ("mediator.shell.main", "netctl-mediator"),
}
"""For each program: the module that it runs, and the package that contains it."""
PAGES = {
    "netctl": ("netctl.cli.main", "parser"),
    "netctl-mediator": ("mediator.shell.main", "parser"),
}
"""For each program with a man page: the module and the function that define its command line."""
MEDIATORS = (
    *("mediator", "uvloop", "uvloop-*.dist-info"),
    *(
        "psycopg",
        "psycopg-*.dist-info",
        "psycopg_binary",
        "psycopg_binary-*.dist-info",
        "psycopg_binary.libs",
    ),
    *("nats", "nats_py-*.dist-info"),
)
"""What netctl-mediator contains of the environment; netctl contains the rest."""
MEDIATOR_UNITS = ("netctl-mediator.service", "netctl-relay.service")
WHEELS = "manylinux_2_34"
"""The tag of wheels that all these distributions can load: for the oldest of their C libraries, or an older one."""
_MADE_BY_INSTALLERS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
LEFT_OUT = (
    *("bin", "numpy/**/tests", "**/__pycache__"),
    *(f"*.dist-info/{name}" for name in _MADE_BY_INSTALLERS),
)
"""What is left out of packages: files that are not needed at run time, or that differ from build to build."""
MAINTAINER = "netctl authors <authors@netctl.invalid>"
SUMMARY = {
    "netctl": "hosts anywhere become one LAN, described in a file",
    "netctl-mediator": "introduces the hosts of a netctl network to each other",
}
DESCRIPTION = {
    "netctl": """\
        Hosts anywhere, behind any NAT, become one LAN with direct encrypted
        tunnels (WireGuard). Networks, members and who may talk to whom are one
        file, networks.yaml, that people edit, review and apply.""",
    "netctl-mediator": """\
        The server of a netctl network: login, presence, addresses, introductions,
        and a relay for what cannot go direct. It can read none of the traffic.""",
}


@dataclass(frozen=True)
class Target:
    """A distribution: the Python that it has, and how its packages name it."""

    python: str
    mark: str
    """The end of the version, so that a package for one distribution is not taken for one for another."""
    glibc: str
    ssl: str = ""
    """The Debian package that contains libcrypto.so.3."""
    zsh: str = "usr/share/zsh/vendor-completions"


DEB = {
    "debian12": Target("3.11", "deb12", "2.36", "libssl3"),
    "debian13": Target("3.13", "deb13", "2.41", "libssl3t64"),
    "ubuntu24.04": Target("3.12", "ubuntu24.04", "2.39", "libssl3t64"),
}
RPM = {
    name: Target(python, mark, glibc, zsh="usr/share/zsh/site-functions")
    for name, python, mark, glibc in (
        ("fedora42", "3.13", "fc42", "2.41"),
        ("fedora43", "3.14", "fc43", "2.42"),
    )
}
LIBRARIES = {
    "libcrypto.so.3": ("", "openssl-libs"),
    "libgcc_s.so.1": ("libgcc-s1", "libgcc"),
    "libstdc++.so.6": ("libstdc++6", "libstdc++"),
    "libz.so.1": ("zlib1g", "libz.so.1()(64bit)"),
}
"""System libraries that the wheels and the C code of netctl load: the packages of Debian and Fedora that contain them.

The package of OpenSSL depends on the target (`Target`).
"""
C_LIBRARY = re.compile(r"(libc|libm|libpthread|librt|libdl|libresolv|libutil|ld-linux-[a-z0-9-]+)\.so\.\d+")
"""Libraries of glibc, on which a package depends once."""
RPM_NEEDS = ("glibc", *(fedora for _, fedora in LIBRARIES.values()), "libseccomp", "nftables")
"""What Fedora must install besides Python. Its package `setup` contains /etc/protocols, from which nft takes names."""
MACHINES = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "aarch64")}
"""The names of Debian and RPM for a kind of machine, by the kernel's name for it."""


def version() -> str:
    """The version of this checkout."""
    line = next(
        one for one in (ROOT / "pyproject.toml").read_text().splitlines() if one.startswith("version")
    )
    return line.split('"')[1]


def packaged_version() -> str:
    """The version in the form that dpkg and rpm sort correctly: a version before a release has `~` instead of a dot."""
    return re.sub(r"\.dev", "~dev", version())


def epoch() -> int:
    """The time of all files in packages (Unix seconds): the commit's, or SOURCE_DATE_EPOCH."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    done = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True
    )
    return int(done.stdout or 0)


def wheel(work: Path) -> Path:
    """Build a wheel of this checkout."""
    directory = work / "wheel"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(directory), str(ROOT)], check=True)
    return next(directory.glob("*.whl"))


def environment(target: Target, package: Path, site: Path, uv: Path) -> None:
    """Install the locked packages and netctl into `site`, for the target's Python."""
    machine = platform.machine()
    common = [str(uv), "pip", "install", "--quiet", "--no-config", "--target", str(site)]
    common += ["--python-version", target.python, "--python-platform", f"{machine}-{WHEELS}"]
    common += ["--no-deps", "--no-compile-bytecode", "--link-mode", "copy"]
    locked = ROOT / "requirements/package.txt"
    environ = {"UV_NATIVE_TLS": "true", **os.environ}  # trusts the certificates of this machine, as pip does
    wanted = [["--only-binary", ":all:", "--require-hashes", "-r", str(locked)], [str(package)]]
    for one in wanted:
        subprocess.run([*common, *one], check=True, env=environ)
    for pattern in LEFT_OUT:
        for path in sorted(site.glob(pattern), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def undeclared(site: Path) -> set[str]:
    """Sonames of libraries that files in `site` load, and that are neither in `site` nor in LIBRARIES."""
    objects = [path for path in site.rglob("*.so*") if path.is_file()]
    listing = ["readelf", "--dynamic", "--wide", *map(str, objects)]
    said = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    needed = (
        set(re.findall(r"\(NEEDED\).*\[(.+)\]", said)) - {path.name for path in objects} - LIBRARIES.keys()
    )
    return {name for name in needed if not C_LIBRARY.fullmatch(name)}


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of the package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def unit(name: str) -> str:
    """A systemd unit, with the paths that the programs have in a package."""
    return (ROOT / "packaging/systemd" / name).read_text().replace("/usr/local/bin/", "/usr/bin/")


def documentation(name: str, into: Path) -> None:
    """Write man pages, completions, licence and changelog of a package."""
    for program, (module, function) in PAGES.items():
        if PROGRAMS[program][1] == name:
            page(program, generated(program, module, function), into)
    for path in sorted((ROOT / "packaging/man").glob("*.8")):
        if PROGRAMS[path.stem][1] == name:
            page(path.stem, path.read_text(), into)
    share = into / "usr/share/doc" / name
    write(share / "copyright", (ROOT / "LICENSE").read_text())
    share.joinpath("changelog.gz").write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))


def generated(program: str, module: str, function: str) -> str:
    """Make a man page from the definition of the command line."""
    command = [
        str(Path(sys.executable).with_name("argparse-manpage")),
        "--module",
        module,
        "--function",
        function,
    ]
    command += ["--prog", program, "--project-name", "netctl", "--version", version()]
    command += ["--manual-section", "8", "--manual-title", "System administration"]
    command += ["--format", "single-commands-section", "--description", SUMMARY[PROGRAMS[program][1]]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def page(program: str, text: str, into: Path) -> None:
    """Write a man page of the package, compressed."""
    path = into / "usr/share/man/man8" / f"{program}.8.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def split(site: Path, target: Target, roots: dict[str, Path]) -> None:
    """Divide the environment between the two packages."""
    inside = HOME / "lib" / f"python{target.python}" / "site-packages"
    for root in roots.values():
        (root / inside).mkdir(parents=True)
    mediators = {path for pattern in MEDIATORS for path in site.glob(pattern)}
    for path in sorted(site.iterdir()):
        owner = "netctl-mediator" if path in mediators else "netctl"
        shutil.move(path, roots[owner] / inside / path.name)
    python = f"/usr/bin/python{target.python}"
    home = roots["netctl"] / HOME
    write(
        home / "pyvenv.cfg",
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.python}\n",
    )
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(python)
    (home / "bin/python").symlink_to("python3")
    for program, (module, package) in PROGRAMS.items():
        text = f"#!/{HOME}/bin/python3 -P\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"
        write(roots[package] / HOME / "bin" / program, text, 0o755)
        link = roots[package] / "usr/bin" / program
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../lib/netctl/bin/{program}")


def stage(target: Target, work: Path, package: Path, uv: Path) -> dict[str, Path]:
    """Make the files of both packages, each below a root of its own."""
    site = work / "site"
    environment(target, package, site, uv)
    if strange := undeclared(site):
        raise SystemExit(f"no package is named that has {', '.join(sorted(strange))}: see LIBRARIES")
    roots = {name: work / name for name in SUMMARY}
    split(site, target, roots)
    for path in sorted((ROOT / "packaging/systemd").glob("*.service")):
        owner = "netctl-mediator" if path.name in MEDIATOR_UNITS else "netctl"
        write(roots[owner] / UNITS / path.name, unit(path.name))
    for kind, place in (("sysusers", "usr/lib/sysusers.d"), ("tmpfiles", "usr/lib/tmpfiles.d")):
        for path in sorted((ROOT / "packaging").glob(f"{kind}/*.conf")):
            owner = "netctl-mediator" if "mediator" in path.name else "netctl"
            write(roots[owner] / place / path.name, path.read_text())
    for name, root in roots.items():
        documentation(name, root)
    completions(roots["netctl"], target.zsh)
    for root in roots.values():
        settle(root)
    return roots


def completions(root: Path, zsh: str) -> None:
    """Write shell completions, made from the command line's definition. `zsh`: the directory where zsh looks."""
    places = {
        "bash": "usr/share/bash-completion/completions/netctl",
        "zsh": f"{zsh}/_netctl",
        "fish": "usr/share/fish/vendor_completions.d/netctl.fish",
    }
    for shell, place in places.items():
        command = [sys.executable, "-P", "-m", "netctl.cli.entry", "completion", shell]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        write(root / place, done.stdout)


def settle(root: Path) -> None:
    """Give every file the same time, and a mode without special bits."""
    when = epoch()
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (when, when), follow_symlinks=False)


def script(name: str, part: str) -> str:
    """The text of a maintainer script, for packages of both kinds."""
    path = ROOT / "packaging/scripts" / f"{name}.{part}"
    return path.read_text() if path.exists() else ""


def needs(name: str, target: Target, revision: str) -> list[str]:
    """The packages that Debian must install as well."""
    if name == "netctl-mediator":
        return [f"netctl (= {packaged_version()}-{revision}~{target.mark})"]
    major, _, minor = target.python.partition(".")
    python = [f"python3 (>= {target.python}~)", f"python3 (<< {major}.{int(minor) + 1})"]
    return [
        *python,
        f"libc6 (>= {target.glibc})",
        target.ssl,
        *(debian for debian, _ in LIBRARIES.values() if debian),
        "nftables",
        "libseccomp2",
    ]


def deb(name: str, root: Path, target: Target, into: Path, revision: str) -> Path:
    """Build a Debian package of these files."""
    architecture = MACHINES[platform.machine()][0]
    full = f"{packaged_version()}-{revision}~{target.mark}"
    size = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    body = textwrap.dedent(DESCRIPTION[name]).splitlines()
    control = root / "DEBIAN"
    fields = [
        f"Package: {name}",
        f"Version: {full}",
        f"Architecture: {architecture}",
        f"Maintainer: {MAINTAINER}",
        f"Installed-Size: {size}",
        f"Depends: {', '.join(needs(name, target, revision))}",
        "Section: net",
        "Priority: optional",
        *(["Suggests: git"] if name == "netctl" else []),
        f"Description: {SUMMARY[name]}",
        *(f" {line}" for line in body),
    ]
    write(control / "control", "\n".join(fields) + "\n")
    for part in ("postinst", "prerm", "postrm"):
        write(control / part, script(name, part), 0o755)
    path = into / f"{name}_{full}_{architecture}.deb"
    times = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    command = ["dpkg-deb", "--root-owner-group", "-Zzstd", "--build", str(root), str(path)]
    subprocess.run(command, check=True, env=times, stdout=subprocess.DEVNULL)
    shutil.rmtree(control)
    return path


def rpm(name: str, root: Path, target: Target, into: Path, work: Path, revision: str) -> Path:
    """Build an RPM package of these files. Its scripts are Debian's, called with the arguments that dpkg would use."""
    architecture = MACHINES[platform.machine()][1]
    requires = (
        [f"netctl = {packaged_version()}-{revision}.{target.mark}"]
        if name == "netctl-mediator"
        else [f"python(abi) = {target.python}", *RPM_NEEDS]
    )
    files = [
        f"/{path.relative_to(root)}"
        for path in sorted(root.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    ]
    # rpm removes a directory with the package only if the package names it. Directories of the system are not named.
    ours = (root / HOME, root / "usr/share/doc")
    own = [
        f'%dir "/{path.relative_to(root)}"'
        for path in sorted(root.rglob("*"))
        if path.is_dir()
        and not path.is_symlink()
        and path not in ours[1:]
        and any(path.is_relative_to(one) for one in ours)
    ]
    listing = "\n".join([*own, *(f'"{file}"' for file in files)])
    # rpm runs the new %post before the old %preun, so %pre removes the files that Python compiled from the old code.
    parts = {
        "%post": 'if [ "$1" = 1 ]; then set -- configure; else set -- configure upgrade; fi',
        "%preun": '[ "$1" = 0 ] || exit 0; set -- remove',
        "%postun": '[ "$1" = 0 ] || exit 0; set -- remove',
    }
    scripts = (
        f"%pre\nfind /{HOME} -name __pycache__ -type d -prune -exec rm -rf {{}} + 2> /dev/null || true\n"
    )
    for (section, words), part in zip(parts.items(), ("postinst", "prerm", "postrm"), strict=True):
        body = script(name, part).removeprefix("#!/bin/sh\n")
        scripts += f"{section}\n{words}\n{body}\n"
    spec = work / f"{name}.spec"
    spec.write_text(
        f"""%global __os_install_post %{{nil}}
%global debug_package %{{nil}}
%global _build_id_links none
AutoReqProv: no
Name: {name}
Version: {packaged_version()}
Release: {revision}.{target.mark}
Summary: {SUMMARY[name]}
License: MIT
{"".join(f"Requires: {one}{chr(10)}" for one in requires)}%description
{textwrap.dedent(DESCRIPTION[name])}
%install
cp -a {root}/. %{{buildroot}}/
{scripts}%files
{listing}
"""
    )
    defines = {
        "_topdir": str(work / "rpmbuild"),
        "_rpmdir": str(into),
        "_rpmfilename": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
        "_buildhost": "localhost",
        "use_source_date_epoch_as_buildtime": "1",
        "clamp_mtime_to_source_date_epoch": "1",
        "_binary_payload": "w6.zstdio",
    }
    command = ["rpmbuild", "-bb", "--quiet", "--target", architecture]
    for key, value in defines.items():
        command += ["--define", f"{key} {value}"]
    times = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch())}
    subprocess.run([*command, str(spec)], check=True, env=times)
    return into / f"{name}-{packaged_version()}-{revision}.{target.mark}.{architecture}.rpm"


def build(
    kind: str, names: Iterable[str], into: Path, uv: Path, revisions: Iterable[str] = ("1",)
) -> list[Path]:
    """Build the packages of one kind (deb or rpm) for these distributions."""
    into.mkdir(parents=True, exist_ok=True)
    (ROOT / "build").mkdir(exist_ok=True)
    work = Path(
        tempfile.mkdtemp(prefix="packages-", dir=ROOT / "build")
    )  # two builds may run at the same time
    work.chmod(0o755)
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch())
    package = wheel(work)
    made = []
    for name in names:
        target = (DEB if kind == "deb" else RPM)[name]
        place = work / name
        roots = stage(target, place, package, uv)
        for revision, (each, root) in itertools.product(revisions, roots.items()):
            if kind == "deb":
                one = deb(each, root, target, into, revision)
            else:
                one = rpm(each, root, target, into, place, revision)
            made.append(one)
            shown = one.relative_to(ROOT) if one.is_relative_to(ROOT) else one
            print(f"{shown}  {one.stat().st_size // 1024} kB")
    shutil.rmtree(work)
    return made


def main() -> int:
    """Run `python packaging/build.py deb|rpm [DISTRIBUTION …]`."""
    parser = argparse.ArgumentParser(description="Builds packages into dist/.")
    parser.add_argument("kind", choices=["deb", "rpm"])
    parser.add_argument(
        "distributions", nargs="*", metavar="DISTRIBUTION", help="default: all that are known"
    )
    parser.add_argument("--into", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument(
        "--uv", type=Path, default=ROOT / ".cache/lock/bin/uv", help="scripts/lock installs it"
    )
    parser.add_argument(
        "--revision",
        action="append",
        metavar="N",
        help="of the packaging, raised where a version is packaged again (default: 1; several: each)",
    )
    arguments = parser.parse_args()
    known = DEB if arguments.kind == "deb" else RPM
    wanted = arguments.distributions or list(known)
    if strange := [name for name in wanted if name not in known]:
        parser.error(f"unknown distribution {strange[0]}; known: {', '.join(known)}")
    build(arguments.kind, wanted, arguments.into.resolve(), arguments.uv, arguments.revision or ("1",))
    return 0


if __name__ == "__main__":
    sys.exit(main())
