"""Builds a release into dist/VERSION/: sdist, wheel, packages, images, a bill of materials, provenance, checksums.

Everything is built from one commit, and whoever builds it gets the same bytes, except for the images. SHA256SUMS names
every file. With a signing key it is signed by ssh; `ssh-keygen -Y verify` checks the signature (docs/install.md).
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import build

ROOT = Path(__file__).resolve().parents[1]
LOCKED = ROOT / "requirements/package.txt"
"""The locked set that every package, image and role installs; the set of a member is a part of it."""
PARTS = ("python", "deb", "rpm", "image")
IMAGES = ("netctl-member", "netctl-mediator")
NAMESPACE = uuid.UUID("5d2b7a4e-6c0f-4e0e-9a53-3f1c8a7b9d10")
"""The namespace of serial numbers of bills of materials (RFC 9562 §5.5): the same content has the same number."""
BUILD_TYPE = "https://slsa-framework.github.io/github-actions-buildtypes/workflow/v1"
LOCAL_BUILD_TYPE = "netctl:packaging/release.py"
SIGNING_NAMESPACE = "netctl-release"
"""The purpose of the signature (ssh-keygen -n): a signature for another purpose does not verify a release."""


class Refused(Exception):
    """This checkout cannot become a release; the text says why."""


def git(*words: str) -> str:
    """The output of a git command in this checkout."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def check(tag: str | None) -> None:
    """Raise Refused if the checkout has changes, another tag than the version's, or nothing in the changelog."""
    if changed := git("status", "--porcelain"):
        raise Refused(f"there are changes that are not committed:\n{changed}")
    number = build.version()
    if tag is not None and tag != f"v{number}":
        raise Refused(
            f"the tag is {tag}, and pyproject.toml says {number}: tag v{number}, or change the version"
        )
    if tag is not None and not notes(number):
        raise Refused(f"CHANGELOG.md has no section `## {number} - DATE` with something in it")


def notes(number: str) -> str:
    """The section of a version in the changelog; empty: there is none."""
    text = (ROOT / "CHANGELOG.md").read_text()
    found = re.search(
        rf"^## {re.escape(number)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return found.group(1).strip() if found else ""


def pins(path: Path) -> list[tuple[Requirement, list[str], list[str]]]:
    """The packages of a locked set: name and version, the SHA-256 of their files, and which package needs them."""
    found = []
    text = path.read_text().replace("\\\n", " ")
    for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+#.*)*", text, re.MULTILINE):
        line, *comments = block.splitlines()
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
        askers = [one.strip(" #\t").removeprefix("via").strip() for one in comments]
        names = [one for one in askers if one and not one.startswith(("-c ", "-r "))]
        found.append((Requirement(line.partition("--hash")[0].strip()), hashes, names))
    return found


def bill(path: Path, when: int) -> str:
    """The bill of materials of a locked set: CycloneDX 1.6 as JSON. `when`: seconds since 1970."""
    number = build.version()
    own = Component(
        type=ComponentType.APPLICATION,
        name="netctl",
        version=number,
        bom_ref="netctl",
        licenses=[DisjunctiveLicense(id="MIT")],
        purl=PackageURL("pypi", None, "netctl", number),
    )
    bom = Bom(
        serial_number=uuid.uuid5(NAMESPACE, f"{number} {path.read_text()}"),
        metadata=BomMetaData(
            component=own, timestamp=datetime.datetime.fromtimestamp(when, datetime.UTC), tools=[]
        ),
    )
    components: dict[str, list[Component]] = {}
    wanted = []
    for pin, hashes, askers in pins(path):
        name = canonicalize_name(pin.name)
        locked = str(pin.specifier).removeprefix("==")
        purl = PackageURL("pypi", None, name, locked)
        # A lock admits every file of the version, so none of the hashes is the one hash of the component.
        said = [Property(name="netctl:locked:sha256", value=one) for one in hashes]
        said += [Property(name="netctl:locked:when", value=str(pin.marker))] if pin.marker else []
        one = Component(name=name, version=locked, purl=purl, bom_ref=purl.to_string(), properties=said)
        bom.components.add(one)
        components.setdefault(name, []).append(one)
        wanted += [(asker, one) for asker in askers]
    for asker, one in wanted:
        first = [own] if asker.startswith("netctl ") else components[canonicalize_name(asker)]
        for dependent in first:
            bom.register_dependency(dependent, [one])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2) + "\n"


def provenance(files: Sequence[Path], when: int) -> str:
    """What was built, from what, and by what program: an in-toto statement v1 with SLSA provenance v1, as JSON."""
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    hosted = bool(server and repository)
    source = f"git+{server}/{repository}" if hosted else "git+netctl"
    builder = f"{server}/{repository}/actions/runs/{os.environ.get('GITHUB_RUN_ID')}" if hosted else "local"
    tools = {"python": platform.python_version(), "machine": platform.machine()}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": digest(path)}} for path in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE if hosted else LOCAL_BUILD_TYPE,
                "externalParameters": {"version": build.version(), "command": "make release"},
                "internalParameters": {"SOURCE_DATE_EPOCH": when, **tools},
                "resolvedDependencies": [
                    {"uri": source, "digest": {"gitCommit": git("rev-parse", "HEAD")}},
                    *({"uri": f"file:{one}", "digest": {"sha256": digest(ROOT / one)}} for one in locks()),
                ],
            },
            "runDetails": {
                "builder": {"id": builder},
                "metadata": {"invocationId": git("rev-parse", "HEAD")},
            },
        },
    }
    return json.dumps(statement, indent=2) + "\n"


def locks() -> list[str]:
    """The files of the locked sets, which name by hash what was installed."""
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / "requirements").glob("*.txt"))]


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def python(into: Path) -> None:
    """Build the sdist, and from it two wheels: one with the C data path for this kind of machine, and one for all."""
    hatchling = [sys.executable, "-P", "-m", "hatchling", "build", "-d", str(into)]
    subprocess.run([*hatchling, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as place:
        sdist = next(into.glob("*.tar.gz"))
        subprocess.run(["tar", "-xf", sdist, "-C", place], check=True)
        unpacked = Path(place, sdist.name.removesuffix(".tar.gz"))
        for native in ("1", "0"):
            variables = {**os.environ, "NETCTL_BUILD_NATIVE": native}
            command = [*hatchling, "-t", "wheel"]
            subprocess.run(command, cwd=unpacked, check=True, capture_output=True, env=variables)


def images(into: Path) -> None:
    """Build both images, as archives for `podman load` and `docker load`."""
    base = os.environ.get("BASE", "")
    subprocess.run([ROOT / "packaging/container/build", base, str(into)], check=True)
    options = os.environ.get("BUILDAH_OPTIONS", "").split()
    for name in IMAGES:
        archive = into / f"{name}-{build.version()}-{platform.machine()}.tar"
        target = f"docker-archive:{archive}:{name}:{build.version()}"
        subprocess.run(["buildah", *options, "push", "--quiet", f"localhost/{name}", target], check=True)


def sign(sums: Path, key: str) -> None:
    """Make SHA256SUMS.sig with a key of ssh: a file, or the public half of a key in the ssh agent."""
    sums.with_name(f"{sums.name}.sig").unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-Y", "sign", "-n", SIGNING_NAMESPACE, "-f", key, str(sums)], check=True)


def release(into: Path, parts: Sequence[str], uv: Path, key: str) -> list[Path]:
    """Build everything into an empty directory, and return the files."""
    into.mkdir(parents=True)
    when = build.epoch()
    os.environ["SOURCE_DATE_EPOCH"] = str(when)
    if "python" in parts:
        python(into)
    for kind, known in (("deb", build.DEB), ("rpm", build.RPM)):
        if kind in parts:
            build.build(kind, known, into, uv)
    if "image" in parts:
        images(into)
    stem = f"netctl-{build.version()}"
    (into / f"{stem}.cdx.json").write_text(bill(LOCKED, when))
    built = sorted(into.iterdir())
    (into / f"{stem}.intoto.json").write_text(provenance(built, when))
    files = sorted(into.iterdir())
    sums = into / "SHA256SUMS"
    sums.write_text("".join(f"{digest(path)}  {path.name}\n" for path in files))
    if key:
        sign(sums, key)
    return sorted(into.iterdir())


def main() -> int:
    """Run `python packaging/release.py`."""
    parser = argparse.ArgumentParser(description="Builds a release into dist/VERSION/.")
    parser.add_argument(
        "--tag", metavar="vVERSION", help="the tag that is released: it has to be this version's"
    )
    parser.add_argument(
        "--dirty", action="store_true", help="for tries: changes and a missing tag do not matter"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="build only this (default: all)")
    parser.add_argument("--into", type=Path, metavar="DIR", help="default: dist/VERSION")
    parser.add_argument("--key", metavar="FILE", default=os.environ.get("NETCTL_SIGNING_KEY", ""))
    parser.add_argument(
        "--notes", action="store_true", help="print the changelog's section, and build nothing"
    )
    parser.add_argument(
        "--uv", type=Path, default=ROOT / ".cache/lock/bin/uv", help="scripts/lock installs it"
    )
    arguments = parser.parse_args()
    if arguments.notes:
        print(notes(build.version()))
        return 0
    into = (arguments.into or ROOT / "dist" / build.version()).resolve()
    try:
        if not arguments.dirty:
            check(arguments.tag)
        if into.exists():
            raise Refused(f"{into} is there already: a release is made once, remove it first")
        parts = arguments.part or PARTS
        if "image" in parts and "deb" not in parts:
            raise Refused("images are made of the Debian packages: --part deb too")
        made = release(into, parts, arguments.uv, arguments.key)
    except Refused as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"{path.name}  {path.stat().st_size // 1024} kB")
    if not arguments.key:
        print("not signed: NETCTL_SIGNING_KEY names a key of ssh", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
