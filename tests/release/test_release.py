"""A release: what is cheap is built, and everything in it is held against the locks and against each other."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from netctl import __version__

ROOT = Path(__file__).parents[2]
WHO = "release@netctl.example"


def run(*words: object, cwd: Path = ROOT, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        input=stdin.decode(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def make(into: Path, *words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, cwd / "packaging/release.py", "--into", into, *words, cwd=cwd)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist and wheels of this checkout, with all that goes with a release, signed."""
    place = tmp_path_factory.mktemp("release")
    key = place / "key"
    assert run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", WHO, "-f", key).returncode == 0
    done = make(place / "made", "--dirty", "--part", "python", "--key", key)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "made"


def lines(path: Path) -> list[str]:
    text = path.read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def test_the_bill_of_materials_is_the_lock(made: Path) -> None:
    text = (made / f"netctl-{__version__}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    locked = {}
    for line in lines(ROOT / "requirements/package.txt"):
        pin = Requirement(line.partition("--hash")[0].strip())
        version = str(pin.specifier).removeprefix("==")
        locked[canonicalize_name(pin.name), version] = sorted(re.findall(r"sha256:(\w+)", line))
    listed = {
        (one["name"], one["version"]): sorted(
            said["value"] for said in one["properties"] if said["name"] == "netctl:locked:sha256"
        )
        for one in bill["components"]
    }
    assert listed == locked
    assert len(bill["components"]) == len(listed) > 10
    assert bill["metadata"]["component"]["version"] == __version__
    graph = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    reached, todo = set(), ["netctl"]
    while todo:
        for one in graph[todo.pop()]:
            if one not in reached:
                reached.add(one)
                todo.append(one)
    assert reached == {one["bom-ref"] for one in bill["components"]}, (
        "each is there because something wants it"
    )


def test_checksums_and_provenance_name_every_file(made: Path) -> None:
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made.iterdir()}
    summed = dict(line.split("  ")[::-1] for line in (made / "SHA256SUMS").read_text().splitlines())
    signed = {"SHA256SUMS", "SHA256SUMS.sig"}
    assert summed == {name: one for name, one in digests.items() if name not in signed}
    own = f"netctl-{__version__}.intoto.json"
    statement = json.loads((made / own).read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    assert subjects == {name: one for name, one in summed.items() if name != own}
    source, *locks = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert source["digest"]["gitCommit"] == run("git", "rev-parse", "HEAD").stdout.strip()
    for one in locks:
        path = ROOT / one["uri"].removeprefix("file:")
        assert one["digest"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_signature_verifies_and_another_does_not(made: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(f"{WHO} {(made.parent / 'key.pub').read_text()}")
    verify = ["ssh-keygen", "-Y", "verify", "-n", "netctl-release", "-f", allowed, "-I", WHO]
    signature = ["-s", made / "SHA256SUMS.sig"]
    sums = (made / "SHA256SUMS").read_bytes()
    assert run(*verify, *signature, stdin=sums).returncode == 0
    assert run(*verify, *signature, stdin=sums.replace(b"a", b"b")).returncode != 0


def test_wheels_are_built_from_the_sdist(made: Path) -> None:
    with tarfile.open(next(made.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"netctl/wg/native/module.c", "hatch_build.py", "requirements/mediator.txt"} <= names
    wheels = {path.name: set(zipfile.ZipFile(path).namelist()) for path in made.glob("*.whl")}
    for name, inside in wheels.items():
        assert inside >= {"netctl/cli/entry.py", "mediator/shell/main.py"}
        assert ("netctl/wg/native/_core.abi3.so" in inside) == ("none-any" not in name)
    assert any("none-any" in name for name in wheels), wheels.keys()


def test_the_same_commit_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again", "--dirty", "--part", "python").returncode == 0
    assert (tmp_path / "again/SHA256SUMS").read_text() == (made / "SHA256SUMS").read_text()


def test_what_is_no_release_is_refused(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    assert run("git", "clone", "-q", "--shared", ROOT, clone).returncode == 0
    shutil.copytree(ROOT / "packaging", clone / "packaging", dirs_exist_ok=True)
    own = ("-c", "user.name=x", "-c", f"user.email={WHO}")
    assert run("git", "add", "packaging", cwd=clone).returncode == 0
    assert run("git", *own, "commit", "-q", "--allow-empty", "-m", "As here", cwd=clone).returncode == 0
    done = make(tmp_path / "made", "--tag", "v99.0", cwd=clone)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"the tag is v99.0, and pyproject.toml says {__version__}" in done.stderr
    (clone / "strange").touch()
    done = make(tmp_path / "made", cwd=clone)
    assert done.returncode == 1
    assert "not committed" in done.stderr
    assert not (tmp_path / "made").exists()
    done = make(clone, "--dirty", cwd=clone)
    assert "is there already" in done.stderr
    done = make(tmp_path / "made", "--dirty", "--part", "image", cwd=clone)
    assert "--part deb too" in done.stderr


def test_a_tag_builds_what_make_release_builds() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert workflow["permissions"] == {}
    steps = [step.get("run", "") for step in workflow["jobs"]["release"]["steps"]]
    assert [step for step in steps if 'make release RELEASE="--tag $TAG"' in step]
    recipe = run("make", "--dry-run", "release", "RELEASE=--tag v1.2.3")
    assert "packaging/release.py --tag v1.2.3" in recipe.stdout, recipe.stderr
