"""The compiled document in the state directory: used when it fits and can be trusted."""

from __future__ import annotations

from pathlib import Path

import netctl
from netctl.agent.storage.documentcache import CompiledDocuments, checking_files
from netctl.config.load.loader import parse

TEXT = (Path(__file__).parents[2] / "examples/lan-party.yaml").read_text()


def compiled(text: str, path: Path) -> bool:
    """Whether a new process takes the compiled form for this text."""
    documents = CompiledDocuments(path)
    loaded = documents.load(text, "networks.yaml")
    assert loaded.mark(("members",)) == parse(text, "networks.yaml").mark(("members",))
    return not documents.checked


def test_the_second_process_takes_it_and_another_text_does_not(tmp_path: Path) -> None:
    path = tmp_path / "compiled.json"
    assert not compiled(TEXT, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert compiled(TEXT, path)
    assert not compiled(TEXT + "# more\n", path)
    assert compiled(TEXT + "# more\n", path)


def test_one_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "compiled.json"
    compiled(TEXT, path)
    path.chmod(0o620)
    assert not compiled(TEXT, path)
    assert compiled(TEXT, path), "it was written anew, for this user alone"


def test_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "compiled.json"
    path.write_bytes(b"\xff{")
    assert not compiled(TEXT, path)
    assert compiled(TEXT, path)


def test_without_a_place_for_it_the_document_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "compiled.json"
    assert not compiled(TEXT, path)
    assert not path.parent.exists()
    assert not compiled(TEXT, path)


def test_one_process_reads_a_text_once(tmp_path: Path) -> None:
    documents = CompiledDocuments(tmp_path / "compiled.json")
    first = documents.load(TEXT, "networks.yaml")
    assert documents.load(TEXT, "networks.yaml") is first
    assert documents.load(TEXT, "another.yaml").source.file == "another.yaml"


def test_every_file_that_checks_documents_counts() -> None:
    root = Path(netctl.__file__).parent
    code = {path for room in ("config", "model") for path in (root / room).rglob("*.py")}
    assert code <= set(checking_files(root))
