"""The page in a real Chromium, with axe-core on every page: `make test-ui`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from netctl.model.forpeople import age
from netctl.wire import agentrequests as a
from netctl.wire import operatorrequests as m
from tests.support.patience import wait_for
from tests.ui.shown import DOCUMENT, PAGES, shown_host
from tests.ui.uikit import KEYS, Host, Served, page
from tests.ui.webdriver import Chromium, chromium

pytestmark = pytest.mark.browser

SIZES = {"light": (1280, 800, "light"), "dark": (1280, 800, "dark"), "phone": (390, 844, "light")}
SEEN_S = 2.0
FIRST_PAINT_MS = 300.0
STILL = 0.02
"""Cumulative layout shift; browsers' own guides call 0.1 good."""
SHIFTS = """
const done = arguments[arguments.length - 1];
let sum = 0;
const add = (list) => list.getEntries().forEach((one) => { sum += one.value; });
new PerformanceObserver(add).observe({type: "layout-shift", buffered: true});
setTimeout(() => done(sum), 3000);
"""
PICTURES = Path(__file__).parents[2] / "docs/ui"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with shown_host(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(scope="module")
def served(known: Host) -> Iterator[Served]:
    with page(known) as one:
        yield one


@pytest.fixture(scope="module")
def browser(served: Served) -> Iterator[Chromium]:
    with chromium() as one:
        one.sign_in(served.link)
        yield one


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_fit_for_everybody(browser: Chromium, name: str, size: str) -> None:
    browser.look(*SIZES[size])
    browser.see(PAGES[name])
    assert browser.axe() == []
    assert browser.complaints() == []
    assert not browser.run("return document.documentElement.scrollWidth > window.innerWidth"), (
        "it is too wide"
    )


def test_what_happens_is_seen_within_two_seconds(browser: Chromium, known: Host) -> None:
    browser.look(*SIZES["light"])
    browser.see("/")
    row = 'tr[data-peer="laptop"]'
    wait_for("it is there", lambda: browser.text(f"{row} [data-cell=online]") == "online")
    known.moving = False
    changed = [
        msgspec.structs.replace(one, online=False, path="none") if one.name == "laptop" else one
        for one in known.status.peers
    ]
    known.status = msgspec.structs.replace(known.status, peers=changed, conditions=["the disk is full"])
    began = time.monotonic()
    wait_for("it is gone", lambda: browser.text(f"{row} [data-cell=online]") == "offline", every_s=0.05)
    assert time.monotonic() - began < SEEN_S
    assert browser.text(f"{row} [data-cell=path]") == "no path"
    wait_for("the banner says why", lambda: "the disk is full" in (browser.text("#banner") or ""))
    assert browser.run("return !document.getElementById('banner').hidden")
    known.moving = True
    wait_for("it is back", lambda: browser.text(f"{row} [data-cell=path]") == "relay")
    drawn = f"return document.querySelector('{row} path.rx').getAttribute('d')"
    wait_for("plots move", lambda: len(browser.run(drawn)) > 30)
    assert browser.complaints() == []


def test_a_tab_in_the_background_is_nobody_who_looks(browser: Chromium, known: Host) -> None:
    """Peers are asked for who sees them: not for a tab that somebody has left open."""
    browser.see("/")
    known.asked.clear()
    wait_for("it looks", lambda: any(isinstance(one, a.Watch) for one in known.asked))
    with browser.another_tab():
        wait_for(
            "it does not",
            lambda: len(known.asked) > 1 and all(isinstance(one, a.Status) for one in known.asked[-2:]),
        )
        known.asked.clear()
    assert browser.run("return document.hidden") is False
    wait_for("it looks again", lambda: any(isinstance(one, a.Watch) for one in known.asked))


def test_rows_stay_where_they_are_while_numbers_change(browser: Chromium) -> None:
    browser.look(*SIZES["light"])
    browser.see("/")
    where = "return [...document.querySelectorAll('tbody tr')].map((row) => row.getBoundingClientRect().top)"
    before = browser.run(where)
    assert browser.run_until_told(SHIFTS) < STILL, "what has been painted moved"
    assert browser.run(where) == before


def with_peers(known: Host, **changed: a.PeerState | None) -> None:
    """Let the host have other peers: by name; None: it is gone."""
    kept = [one for one in known.status.peers if one.name not in changed]
    more = [one for one in changed.values() if one is not None]
    known.status = msgspec.structs.replace(known.status, peers=[*kept, *more])


def found(browser: Chromium, path: str, part: str = "#live") -> bool:
    """Whether the host has noticed by now what the test before has changed back."""
    browser.see(path)
    return browser.text(part) is not None


@pytest.fixture
def still(browser: Chromium, known: Host) -> Iterator[None]:
    """A host that moves by itself no more; afterwards it is as it was."""
    browser.look(*SIZES["light"])
    before, known.moving = known.status, False
    yield
    known.status, known.moving = before, True
    known.changes += 1
    browser.complaints()  # of pages of members that are gone


def one_of(known: Host, name: str, /, **changed: object) -> a.PeerState:
    return msgspec.structs.replace(next(one for one in known.status.peers if one.name == name), **changed)


@pytest.mark.usefixtures("still")
def test_the_count_of_who_is_online_follows(browser: Chromium, known: Host) -> None:
    browser.see("/")
    assert browser.text(".facts") is not None
    assert "4 of 6 others online" in (browser.text(".facts") or "")
    with_peers(known, laptop=one_of(known, "laptop", online=False, path="none"))
    wait_for("one less", lambda: "3 of 6 others online" in (browser.text(".facts") or ""))
    with_peers(known, laptop=one_of(known, "laptop", online=True, path="direct"))
    wait_for("one more", lambda: "4 of 6 others online" in (browser.text(".facts") or ""))


@pytest.mark.usefixtures("still")
def test_who_comes_and_goes_does_so_in_the_page(browser: Chromium, known: Host) -> None:
    """And what somebody has typed, opened and focused stays."""
    browser.see("/")
    browser.run("document.querySelector('details.picture').open = true")
    browser.run("document.getElementById('q').focus()")
    browser.type("pri")
    new = one_of(known, "desktop", name="prism", addresses={"home": ["10.147.20.99"]})
    with_peers(known, prism=new, laptop=None)
    rows = "return [...document.querySelectorAll('tr[data-peer]')].map((one) => one.dataset.peer)"
    wait_for("it has come", lambda: "prism" in browser.run(rows))
    assert "laptop" not in browser.run(rows)
    assert "of 6 others online" in (browser.text(".facts") or "")
    shown = (
        "return [...document.querySelectorAll('tr[data-peer]:not([hidden])')].map((one) => one.dataset.peer)"
    )
    assert browser.run(shown) == ["printer", "prism"]
    assert browser.run("return document.getElementById('q').value") == "pri"
    browser.type("s")
    assert browser.run(shown) == ["prism"]
    assert browser.run("return document.querySelector('details.picture').open")
    assert browser.run("return document.querySelectorAll('.picture line').length") == 6
    with_peers(known, prism=msgspec.structs.replace(new, addresses={"home": ["10.147.20.98"]}))
    wait_for("its address", lambda: "10.147.20.98" in (browser.text('tr[data-peer="prism"]') or ""))
    assert browser.complaints() == []


@pytest.mark.usefixtures("still")
def test_a_members_page_follows_it(browser: Chromium, known: Host) -> None:
    wait_for("it is there", lambda: found(browser, "/members/laptop"))
    told = {"endpoint": "198.51.100.77:7", "hindrance": "a new reason", "rx_bytes": 5_000_000_000}
    with_peers(known, laptop=one_of(known, "laptop", **told))
    wait_for("its endpoint", lambda: "198.51.100.77:7" in (browser.text("#live") or ""))
    assert "a new reason" in (browser.text("#live") or "")
    wait_for("totals", lambda: (browser.text("[data-cell=totals]") or "").startswith("5.0 GB received"))
    old = browser.text("[data-age]")
    wait_for("its path grows older", lambda: browser.text("[data-age]") != old)
    with_peers(known, laptop=None)
    wait_for("it is gone", lambda: "what it showed is gone" in (browser.text("#lost") or ""))


@pytest.mark.usefixtures("still")
def test_why_follows_the_path_and_says_that_it_has_gone(browser: Chromium, known: Host) -> None:
    wait_for("it is there", lambda: found(browser, "/why?from=here&to=laptop", "#by-path"))
    with_peers(
        known, laptop=one_of(known, "laptop", path="direct", endpoint="198.51.100.78:8", hindrance=None)
    )
    wait_for("its endpoint", lambda: "198.51.100.78:8" in (browser.text("#by-path") or ""))
    assert "Not direct" not in (browser.text("#by-path") or "")
    with_peers(known, laptop=None)
    wait_for("it is gone", lambda: "parts of it have come or gone" in (browser.text("#lost") or ""))


@pytest.mark.usefixtures("still")
def test_what_happens_comes_into_the_time_line(browser: Chromium, known: Host) -> None:
    browser.see("/timeline")
    known.happened = [a.Happening(time.time(), "path", "something new"), *known.happened]
    wait_for("it is there", lambda: "something new" in (browser.text("#live") or ""))
    del known.happened[0]
    assert browser.complaints() == []


def test_a_list_with_buttons_does_not_move_under_a_finger(browser: Chromium, known: Host) -> None:
    browser.look(*SIZES["light"])
    browser.see("/invites")
    waiting = "return [...document.querySelectorAll('#in-line button')].map((one) => one.ariaLabel)"
    before, members = browser.run(waiting), known.answers[m.ListMembers]
    assert before
    known.answers[m.ListMembers] = lambda asked: [
        msgspec.structs.replace(members(asked)[0], name="another"), *members(asked),
    ]  # fmt: skip
    wait_for("it is said", lambda: "This list has changed" in (browser.text("[data-told]") or ""))
    assert browser.run(waiting) == before
    browser.click("[data-told] a")
    wait_for("it is loaded again", lambda: len(browser.run(waiting)) > len(before))
    known.answers[m.ListMembers] = members
    assert browser.axe() == []


def test_ages_are_written_as_the_host_writes_them(browser: Chromium) -> None:
    browser.see("/")
    ages = [0.0, 59.4, 119.6, 120.0, 7199.0, 7200.0, 172_799.0, 172_800.0, 1e7]
    assert browser.run("return arguments[0].map(age)", ages) == [age(one) for one in ages]


def test_a_page_that_gets_no_news_says_so(known: Host) -> None:
    """One that lets a browser in no more, and one that has ended, do not look as if all were well."""
    with chromium() as browser:
        with page(known) as other:
            browser.go(other.link)
            wait_for("it is there", lambda: browser.text(".network h2") == "home")
            browser.run("return fetch(ROOT_PATH + '/logout', {method: 'POST', body: new URLSearchParams("
                        "new FormData(document.querySelector('form.out')))}).then(() => null)")  # fmt: skip
            wait_for("it is said", lambda: "lets this browser in no more" in (browser.text("#lost") or ""))
        with page(known) as other:
            browser.go(other.link)
            wait_for("it is there", lambda: browser.text(".network h2") == "home")
            assert browser.text("#lost") == ""
        wait_for("it is said", lambda: "the host is not reached" in (browser.text("#lost") or ""))


def test_what_moves_is_noticed(browser: Chromium) -> None:
    """The measure of the test before, of a page that does jump."""
    browser.see("/")
    time.sleep(1)
    browser.run("document.querySelector('.find').remove()")
    assert browser.run_until_told(SHIFTS) > STILL


def test_a_search_finds_as_one_types_and_keys_reach_everything(browser: Chromium) -> None:
    browser.look(*SIZES["light"])
    browser.see("/")
    browser.type("\ue004")  # Tab
    assert browser.run("return document.activeElement.className") == "skip"
    browser.run("document.getElementById('q').focus()")
    browser.type("lapt")
    rows = "[...document.querySelectorAll('tr[data-peer]')].filter((row) => !row.hidden)"
    shown = f"return {rows}.map((row) => row.dataset.peer)"
    assert browser.run(shown) == ["laptop"]
    browser.type("\ue007")  # Enter: the server finds the same
    wait_for("it is asked for", lambda: "q=lapt" in browser.url())
    assert browser.run(shown) == ["laptop"]


def test_it_reads_without_scripts(browser: Chromium) -> None:
    browser.look(*SIZES["light"], scripts=False)
    try:
        for path in PAGES.values():
            browser.see(path)
        browser.see("/")
        assert browser.text('tr[data-peer="nas"] [data-cell=path]') == "same LAN"
    finally:
        browser.look(*SIZES["light"])


def test_an_invite_is_made_and_shown(browser: Chromium) -> None:
    browser.look(*SIZES["light"])
    browser.see("/invites")
    browser.click(".fields button")
    wait_for("it is shown", lambda: browser.text(".made .address") is not None)
    assert browser.axe() == []


def caret_after(browser: Chromium, words: str) -> None:
    """Put the caret where somebody would type on."""
    browser.run(
        "const field = document.getElementById('text'); const at = field.value.indexOf(arguments[0]);"
        "if (at < 0) throw Error('not there'); field.focus();"
        "field.setSelectionRange(at + arguments[0].length, at + arguments[0].length)",
        words,
    )


def line_of(text: str, words: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if words in line)


def test_an_error_is_seen_at_its_line_as_one_types(browser: Chromium) -> None:
    browser.look(*SIZES["light"])
    browser.see("/document/edit")
    wait_for("it is judged first", lambda: browser.text("#verdict") == "1 warning.")
    caret_after(browser, "mode: lan")
    browser.type("d")
    wait_for("it is judged", lambda: browser.text("#verdict") == "1 error, 1 warning.")
    number = line_of(DOCUMENT, "mode: lan")
    line = f"#under > .l:nth-child({number})"
    assert browser.run(f"return document.querySelector('{line}').dataset.severity") == "error"
    assert "NC014" in (browser.text(f"{line} .lens") or "")
    assert f"Line {number}" in (browser.text("#findings li") or "")
    assert browser.axe() == []
    same = "return document.getElementById('under').getBoundingClientRect().height - 1 <= arguments[0]"
    assert browser.run(same, browser.run("return document.getElementById('text').offsetHeight"))
    browser.type("\ue003")  # Backspace
    wait_for("it is mended", lambda: browser.text("#verdict") == "1 warning.")
    assert browser.text(f"{line} .lens") is None
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("after", "typed", "offered", "there"),
    [
        ("    mode: lan", "\ue007ma", "masquerade", "\n    masquerade: "),
        ("    mode: ", "rou", "routed", "mode: routed"),
        ("{name: admins, ", "et", "ethertypes", "{name: admins, ethertypes: "),
        ("approve: manual}\n", "    to", "topology", "    topology:"),
        ('src: ["group:admins"', ", la", "laptop", 'src: ["group:admins", laptop'),
        ('operators: ["group:admins"]}\n', "dr", "drift", "\ndrift: "),
    ],
)
def test_what_fits_is_offered(browser: Chromium, after: str, typed: str, offered: str, there: str) -> None:
    browser.look(*SIZES["light"])
    browser.run("window.onbeforeunload = null")
    browser.see("/document/edit")
    wait_for("it is judged first", lambda: browser.text("#verdict") == "1 warning.")
    caret_after(browser, after)
    browser.type(typed)
    wait_for("it is offered", lambda: browser.text("#proposals [aria-selected=true] strong") == offered)
    assert browser.run("return document.getElementById('text').getAttribute('aria-activedescendant')")
    assert browser.axe() == []
    browser.type("\ue007")  # Enter
    assert there in browser.run("return document.getElementById('text').value")
    assert browser.run("return document.getElementById('proposals').hidden")
    browser.run("document.getElementById('text').value = document.getElementById('text').defaultValue")
    assert browser.complaints() == []


def changed(browser: Chromium, words: str) -> None:
    """Edit, see the plan, and try it."""
    browser.see("/document/edit")
    wait_for("it is judged first", lambda: browser.text("#verdict") == "1 warning.")
    caret_after(browser, "# in the cellar")
    browser.type(words)
    browser.click("#edit button.go")
    wait_for("the plan is there", lambda: browser.text("h1") == "What it changes")
    assert "laptop loses nas:tcp/22" in (browser.text("#people + ul") or "")
    assert f'+  nas:     {{wireguard: "{KEYS[1]}", groups: [servers]}}   # in the cellar{words}' in (
        browser.text("#patch") or ""
    )
    assert browser.axe() == []
    browser.click("#try ~ form button.go")
    wait_for("it is asked", lambda: browser.text("#armed-head") and browser.text("h1") == "The document")


def test_a_change_is_tried_counted_down_and_kept(browser: Chromium, served: Served, known: Host) -> None:
    browser.look(*SIZES["light"])
    file = known.directory / "networks.yaml"
    changed(browser, "s")
    assert browser.run("return !document.getElementById('armed').hidden")
    assert browser.axe() == []
    left = str(browser.text("#armed-left"))
    wait_for("it is counted down", lambda: browser.text("#armed-left") != left)
    browser.see("/")
    assert browser.run("return !document.getElementById('armed').hidden"), "every page asks"
    assert file.read_text() == DOCUMENT
    browser.click("#armed button.go")
    wait_for("it stays", lambda: "It stays" in (browser.text("[role=status] .good") or ""))
    assert file.read_text() == DOCUMENT.replace("in the cellar", "in the cellars")
    file.write_text(DOCUMENT)
    assert browser.complaints() == []


def test_what_nobody_keeps_is_gone_by_itself(browser: Chromium, served: Served, known: Host) -> None:
    browser.look(*SIZES["light"])
    (known.directory / "networks.yaml").write_text(DOCUMENT + "apply: {confirm: 4s}\n")
    changed(browser, "!")
    wait_for("it is over", lambda: browser.run("return document.getElementById('armed').hidden"))
    assert "this host went back" in (browser.text("#armed-end") or "")
    assert (known.directory / "networks.yaml").read_text() == DOCUMENT + "apply: {confirm: 4s}\n"
    (known.directory / "networks.yaml").write_text(DOCUMENT)


def test_the_first_paint_is_quick(browser: Chromium) -> None:
    """The best of five: what else the machine does is not the page's."""
    paints = []
    for _ in range(5):
        browser.see("/")
        wait_for("it is painted", lambda: browser.run("return performance.getEntriesByType('paint').length"))
        paints.append(browser.run("return performance.getEntriesByType('paint')[0].startTime"))
    print(f"first paint: {min(paints):.0f} ms at best, {max(paints):.0f} at worst")
    assert min(paints) < FIRST_PAINT_MS


@pytest.fixture(scope="module")
def watched(browser: Chromium) -> None:
    """For pictures that are kept: until the plots have something to show."""
    browser.see("/")
    time.sleep(float(os.environ.get("NETCTL_SCREENSHOTS", "0")))


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_pictures(browser: Chromium, name: str, size: str) -> None:
    """`make screenshots` keeps them; here it is only looked that each can be made."""
    browser.look(*SIZES[size])
    browser.see(PAGES[name])
    made = browser.picture()
    assert made.startswith(b"\x89PNG")
    if os.environ.get("NETCTL_SCREENSHOTS"):
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"{name}-{size}.png").write_bytes(made)
