"""Findings as people, programs and code hosts read them; warnings; what a secret looks like."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netctl.config import load_document
from netctl.config.load.loader import MAX_BYTES, MAX_FINDINGS
from netctl.config.load.render import excerpt, to_github, to_json
from netctl.model.errors import ConfigError, Finding, Mark
from tests.support.documents import key

CODE = re.compile(r"NC[0-9]{3}")
FALLBACK = "NC" + "019"  # a keyword of the schema without words of its own: none today

TEXT = f"""apiVersion: netctl/v1
mediators: [{{url: "netctl://m.example.net:8443", identity: ["ed25519:{key("m")}"], relayPorts: 40000-40000}}]
members:
  a: {{wireguard: "{key("a")}", identity: "ed25519:{key("ia")}", routes: [192.168.5.0/24]}}
  b: {{wireguard: "{key("b")}", identity: "ed25519:{key("ib")}"}}
  phone: {{wireguard: "{key("phone")}"}}
  gone: {{state: absent}}
networks:
  party: {{ipv4: 100.64.3.0/24, members: [a, b, phone, gone]}}
"""


def test_warnings_do_not_stop_a_document() -> None:
    loaded = load_document(TEXT)
    assert sorted(finding.code for finding in loaded.warnings) == [
        "NC203",
        "NC405",
        "NC416",
        "NC509",
        "NC511",
    ]
    assert all(finding.severity == "warning" for finding in loaded.warnings)
    assert loaded.document.networks["party"].member_names == ("a", "b", "phone")


def test_many_warnings_do_not_hide_an_error() -> None:
    phones = "".join(f'  p{i}: {{wireguard: "{key(f"p{i}")}"}}\n' for i in range(300))
    text = TEXT.replace("  gone:", phones + "  gone:").replace("[a, b, phone, gone]", "['*', nobody]")
    text = text.replace("100.64.3.0/24", "10.0.0.0/16")
    with pytest.raises(ConfigError) as caught:
        load_document(text)
    assert [finding.code for finding in caught.value.findings if finding.severity == "error"] == ["NC201"]


def test_more_that_is_wrong_than_anybody_reads() -> None:
    members = "".join(f"  m{i}: {{wireguard: {i}, colour: blue}}\n" for i in range(900))
    with pytest.raises(ConfigError) as caught:
        load_document(TEXT.replace("  gone:", members + "  gone:"))
    assert len(caught.value.findings) == MAX_FINDINGS


def test_warnings_about_size_and_use() -> None:
    phones = "".join(f'  p{i}: {{wireguard: "{key(f"p{i}")}"}}\n' for i in range(130))
    text = TEXT.replace("  gone:", phones + "  gone:").replace("[a, b, phone, gone]", "['*']")
    text += "  quiet: {mode: routed, ipv4: 10.9.0.0/24, masquerade: true, members: [b, phone]}\n"
    warnings = {finding.code: finding for finding in load_document(text).warnings}
    assert "133 members" in warnings["NC508"].message
    assert "and 126 more" in warnings["NC509"].message
    assert warnings["NC514"].path == "networks.quiet.masquerade"


def test_lazy_tunnels_without_mediators_are_kept_open_and_that_is_said() -> None:
    text = f"""apiVersion: netctl/v1
mediators: []
members:
  a: {{wireguard: "{key("a")}", endpoints: ["192.0.2.1:51820"]}}
  b: {{wireguard: "{key("b")}", endpoints: ["192.0.2.2:51820"]}}
networks:
  net: {{mode: routed, ipv4: 10.1.0.0/24, lazy: always, members: [a, b], addresses: {{a: 10.1.0.1, b: 10.1.0.2}}}}
"""
    assert [finding.code for finding in load_document(text).warnings] == ["NC517"]
    assert not load_document(text.replace("always", "auto")).warnings


def test_a_text_past_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(ConfigError, match="NC002"):
        load_document("[" * (MAX_BYTES + 1))


def test_the_reference_lists_every_code() -> None:
    root = Path(__file__).resolve().parents[2]
    said = {
        code for path in (root / "netctl/config").rglob("*.py") for code in CODE.findall(path.read_text())
    }
    listed = CODE.findall((root / "docs/findings.md").read_text())
    assert sorted(said) == listed, "in order, each once"


def test_every_code_is_shown_by_a_case() -> None:
    here = Path(__file__).parent
    files = [*here.glob("*.py"), *here.glob("hostile/*.txt")]
    shown = {code for path in files for code in CODE.findall(path.read_text(encoding="utf-8"))}
    said = set(CODE.findall((here.parents[1] / "docs/findings.md").read_text()))
    assert said - shown == {FALLBACK}


def test_every_path_has_a_mark() -> None:
    marks = load_document(TEXT, "n.yaml").marks
    assert marks["members.b.wireguard"] == Mark("n.yaml", 5, 7)
    assert marks["networks.party.members[2]"].line == 9
    assert str(marks["networks"]) == "n.yaml:8:1"


def test_the_caret_stands_under_the_column() -> None:
    finding = Finding("NC011", "members.a.x", "unknown key", Mark("n.yaml", 2, 4))
    assert excerpt(finding, "a:\n  x\ty: 1\n") == ("     2 |   x y: 1", "       |    ^")
    assert excerpt(finding, "") == ()


def test_the_caret_stands_under_the_column_of_a_long_line() -> None:
    line = "." * 500 + "x" + "." * 500
    shown, caret = excerpt(Finding("NC011", "p", "m", Mark("n.yaml", 1, 501)), line)
    assert shown[caret.index("^")] == "x"
    assert len(shown) < 120


def test_forms_for_programs() -> None:
    finding = Finding("NC011", "a", "100%\nwrong", Mark("x,y:z.yaml", 3, 5), "did you mean 'b'?")
    assert to_json(finding)["line"] == 3
    assert to_github(finding) == (
        "::error file=x%2Cy%3Az.yaml,line=3,col=5,title=NC011::a: 100%25%0Awrong (did you mean 'b'?)"
    )


@pytest.mark.parametrize("where", ["host", "groups", "endpoints"])
def test_a_value_shaped_like_a_key_is_refused_where_no_public_key_belongs(where: str) -> None:
    secret = key("secret")
    value = f'"{secret}"' if where == "host" else f'["{secret}"]'
    with pytest.raises(ConfigError) as caught:
        load_document(TEXT.replace("routes: [192.168.5.0/24]", f"{where}: {value}"))
    errors = [finding for finding in caught.value.findings if finding.severity == "error"]
    assert [finding.code for finding in errors] == ["NC303"]
    assert secret not in str(caught.value), "a message must not spread what it found"


def test_a_member_may_be_called_secret() -> None:
    text = TEXT.replace("  b:", "  secret-b:").replace("[a, b,", "[a, secret-b,")
    text = text.replace("members: [a", "addresses: {secret-b: 100.64.3.9}, members: [a")
    assert "secret-b" in load_document(text).document.members
