"""A review says what a branch changes, and the tools around it are what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from netctl.cli.main import main
from netctl.config.load.draft7 import to_draft7
from netctl.config.load.schema import load_schema
from tests.support.documents import EXAMPLES
from tests.support.gitkit import Repository
from tests.support.patience import BUSY_S

ROOT = Path(__file__).parents[2]
KEY = "Sg0SmHNAMDfCzZuQSCA2h/YjP7ZziVbgNJvUMg/sPpA=", "BESeksmnZX7y1ne4752kbAiPE1deqIfkgY/EVaK8pQA="
DOCUMENT = f"""apiVersion: netctl/v1
members:
  a: {{wireguard: "{KEY[0]}", endpoints: ["192.0.2.1:51820"]}}
  b: {{wireguard: "{KEY[1]}", endpoints: ["192.0.2.2:51820"]}}
networks:
  office:
    mode: routed
    ipv4: 10.77.0.0/24
    members: ["*"]
    addresses: {{a: 10.77.0.1, b: 10.77.0.2}}
    acls:
      - {{name: ssh, src: [a], dst: [b], proto: tcp, ports: [22]}}
    tests:
      - {{src: a, accept: ["b:tcp/22"], deny: ["b:tcp/80"]}}
"""
OPENED = DOCUMENT.replace("ports: [22]", "ports: [22, 5432]").replace("10.77.0.2}", "10.77.0.7}")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.commit(DOCUMENT, "the network", file="net/networks.yaml")
    return made


def test_a_branch_in_markdown(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    file = repository.path / "net/networks.yaml"
    file.write_text(OPENED)
    assert main(["plan", "--against", "main", "-o", "markdown", "--detailed-exitcode", str(file)]) == 2
    said = capsys.readouterr().out
    commit = repository.git("rev-parse", "HEAD")[:10]
    assert said.startswith(
        f"### `networks.yaml` against `{commit}`\n\n**1 gained**, **1 changed**\n\n```diff\n"
    )
    assert "! b in office moves from 10.77.0.2 to 10.77.0.7\n" in said
    assert "+ a gains b:tcp/5432 in office\n```" in said
    assert main(["plan", "--against", "HEAD", "-o", "json", str(file)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["reach"][0]["gained"] == ["tcp/5432"]
    assert data["against"] == commit
    file.write_text(DOCUMENT)
    assert main(["plan", "--against", "main", "--detailed-exitcode", str(file)]) == 0
    assert "Nothing changes for anybody" in capsys.readouterr().out


def test_a_file_that_is_new_on_the_branch(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    other = repository.path / "other.yaml"
    other.write_text(DOCUMENT)
    assert main(["plan", "--against", "HEAD", str(other)]) == 0
    assert "+ network office comes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("revision", "says"),
    [("nowhere", "there is no revision 'nowhere'"), ("--help", "there is no revision '--help'")],
)
def test_a_bad_revision(
    repository: Repository, revision: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", f"--against={revision}", str(repository.path / "net/networks.yaml")]) == 1
    assert says in capsys.readouterr().err


def test_no_repository_and_a_bad_old_document(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "networks.yaml"
    alone.write_text(DOCUMENT)
    assert main(["plan", "--against", "HEAD", str(alone)]) == 1
    assert "is in no Git repository" in capsys.readouterr().err
    repository.commit("apiVersion: netctl/v7\n", "bad", file="net/networks.yaml")
    file = repository.path / "net/networks.yaml"
    file.write_text(DOCUMENT)
    assert main(["plan", "--against", "HEAD", str(file)]) == 1
    assert "is not valid at" in capsys.readouterr().err
    assert main(["plan", "-o", "markdown", str(file)]) == 1
    assert "--against REV" in capsys.readouterr().err


def test_the_documents_own_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(DOCUMENT)
    bad.write_text(DOCUMENT.replace("ports: [22]", "ports: [80]"))
    assert main(["test", str(good)]) == 0
    assert capsys.readouterr().out == "ok   office: 2 expectations hold\n"
    assert main(["test", str(good), str(bad)]) == 1
    assert "bad.yaml:14" in capsys.readouterr().err


def test_hooks_and_action_name_commands_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "networks.yaml"
    file.write_text(DOCUMENT)
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {hook["id"] for hook in hooks} == {"netctl-validate", "netctl-fmt", "netctl-test"}
    for hook in hooks:
        program, *words = hook["entry"].split()
        assert program == "netctl"
        assert main([*words, str(file), str(file)]) == 0
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        # What somebody else wrote reaches the shell as a variable, never as a part of the script.
        assert "${{" not in step["run"]


def test_the_steps_of_the_action_run(repository: Repository, tmp_path: Path) -> None:
    """All but the two that install from an index and write to GitHub."""
    (repository.path / "net/networks.yaml").write_text(OPENED)
    temporary = tmp_path / "runner"
    (temporary / "netctl/bin").mkdir(parents=True)
    (temporary / "netctl/bin/netctl").symlink_to(Path(sys.executable).parent / "netctl")
    environment = {
        "PATH": os.environ["PATH"],
        "RUNNER_TEMP": str(temporary),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "FILE": "net/networks.yaml",
        "AGAINST": repository.git("rev-parse", "HEAD"),
    }
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    for step in steps[1:3]:
        command = ["bash", "-e", "-o", "pipefail", "-c", step["run"]]
        subprocess.run(command, cwd=repository.path, env=environment, check=True, timeout=BUSY_S)
    assert "+ a gains b:tcp/5432" in (tmp_path / "summary").read_text()
    assert (tmp_path / "output").read_text() == f"markdown={temporary}/netctl-plan.md\n"


def test_the_published_draft_7_is_that_of_the_schema() -> None:
    published = json.loads((ROOT / "schemas/networks.draft-07.schema.json").read_text())
    assert published == to_draft7(load_schema()), (
        "run: netctl schema --draft 7 > schemas/networks.draft-07.schema.json"
    )
    jsonschema.Draft7Validator.check_schema(published)


def test_draft_7_judges_as_the_schema_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--draft", "7"]) == 0
    validator = jsonschema.Draft7Validator(json.loads(capsys.readouterr().out))
    newest = jsonschema.Draft202012Validator(load_schema())
    for example in EXAMPLES:
        tree = yaml.load(example.read_text(), yaml.BaseLoader)
        assert {tuple(e.absolute_path) for e in validator.iter_errors(tree)} == {
            tuple(e.absolute_path) for e in newest.iter_errors(tree)
        }
    bad = {"apiVersion": "netctl/v1", "members": {"A": {}}, "networks": {"x": {"topology": {"hub": "No"}}}}
    for judge in (validator, newest):
        assert len(list(judge.iter_errors(bad))) == 3
