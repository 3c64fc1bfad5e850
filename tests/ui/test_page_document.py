"""The document in the page: who may reach whom, by which line, and what is wrong at which."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest

from netctl.config import load_document
from netctl.ui.reachview import MAX_SIDE, lines, matrix
from tests.ui.uikit import DOCUMENT, Browser, Host, host, page, peer

RULES = """    acls:
      - {name: files, src: [laptop], dst: ["group:servers"], proto: tcp, ports: [445]}
      - {name: all, src: [nas], dst: ["*"]}
    tests:
      - {src: laptop, accept: ["nas:tcp/445"], deny: ["here:tcp/22"]}
"""
TEXT = (
    DOCUMENT.partition("  home:")[0]
    + """  home:
    mode: routed
    ipv4: 10.9.0.0/24  # <b>ours</b>
    members: ["*"]
    addresses: {here: 10.9.0.1, nas: 10.9.0.2, laptop: 10.9.0.3}
"""
    + RULES
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host(tmp_path_factory.mktemp("host"), peer("nas", "10.9.0.2"), document=TEXT) as made:
        yield made


@pytest.fixture(scope="module")
def browser(known: Host) -> Iterator[Browser]:
    with page(known) as one:
        yield one.signed_in()


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(TEXT.splitlines(), 1) if text in line)


def test_the_matrix_says_who_may_and_by_which_line(browser: Browser) -> None:
    text = browser.get("/reach").text
    cells = re.findall(r'href="/document#L(\d+)" data-allowed="(\w+)" title="([^"]+)"', text)
    deny = (str(line_of("acls:")), "no", "default deny")
    nas = (str(line_of("name: all")), "yes", "all")
    assert cells == [deny, deny, nas, nas, deny, (str(line_of("name: files")), "part", "files")]
    assert "2 tests of the document, which hold" in text
    assert "does not reach <code>here:tcp/22</code>" in text


def test_a_question_is_answered_with_its_line(browser: Browser) -> None:
    yes = re.sub(r"<[^>]+>", "", browser.get("/reach?from=laptop&to=nas&on=445").text)
    assert "home: allowed by networks.home.acls[0] (files)" in yes
    no = browser.get("/reach?from=laptop&to=nas&on=udp/53").text
    assert '<span class="bad">denied</span>' in no
    assert 'href="/why?from=laptop&amp;to=nas&amp;on=udp%2F53"' in no


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("from=laptop&to=nobody", "There is no member &#39;nobody&#39;"),
        ("on=many", "&#39;many&#39; is no port"),
        ("from=%00<b>", "&lt;b&gt;"),
    ],
)
def test_a_bad_question_is_said(browser: Browser, asked: str, said: str) -> None:
    answer = browser.get(f"/reach?{asked}")
    assert answer.status == 200
    assert said in answer.text


def test_the_document_is_shown_with_its_lines(browser: Browser) -> None:
    text = browser.get("/document").text
    assert "in force on this host" in text
    assert f'<li id="L{line_of("acls:")}">' in text
    assert "&lt;b&gt;ours&lt;/b&gt;" in text
    shown = re.sub(r"<[^>]+>", "", "\n".join(re.findall(r"<code>(.*?)</code>(?:<p|</li)", text)))
    assert shown.replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">") == TEXT.rstrip("\n")


def test_what_is_wrong_stands_at_its_line(known: Host, browser: Browser) -> None:
    file = known.directory / "networks.yaml"
    file.write_text(TEXT.replace("proto: tcp", "proto: tpc").replace("mode: routed", "mode: rooted"))
    try:
        text = browser.get("/document").text
        assert "2 errors, so it cannot be applied" in text
        for word in ("rooted", "tpc"):
            line = next(one for one in text.split("<li id=")[1:] if word in one)
            assert "error NC014" in line
        assert browser.get("/reach").status == 200, "what is in force is judged by its own text"
        file.write_text(TEXT + "# more\n")
        assert "not in force on this host" in browser.get("/document").text
        file.unlink()
        assert "netctl init" in browser.get("/document").text
    finally:
        file.write_text(TEXT)


def test_every_line_keeps_its_characters() -> None:
    odd = "a: \"#no\" # yes\n  - 'it''s': x#y\n\n\tz"
    assert ["".join(text for _, text in line.parts) for line in lines(odd, ())] == odd.split("\n")
    assert lines("", ())[0].number == 1


def test_a_matrix_has_a_bound() -> None:
    names = [f"m{number}" for number in range(MAX_SIDE + 5)]
    keys = {
        name: base64.b64encode(bytes([number + 1]) + bytes(31)).decode() for number, name in enumerate(names)
    }
    members = "\n".join(f'  {name}: {{wireguard: "{key}"}}' for name, key in keys.items())
    text = (
        f'apiVersion: netctl/v1\nmediators: [{{url: "netctl://m:1", identity: ["ed25519:{keys["m0"]}"]}}]\n'
    )
    text += f"members:\n{members}\nnetworks:\n  big: {{mode: routed, ipv4: 10.9.0.0/24, members: ['*']}}\n"
    loaded = load_document(text)
    found = matrix(loaded, loaded.document.networks["big"], None, None, "")
    assert (len(found.names), found.left_out) == (MAX_SIDE, 5)
    assert matrix(loaded, loaded.document.networks["big"], None, None, "m44").names == ("m44",)
