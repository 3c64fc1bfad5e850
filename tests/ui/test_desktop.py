"""The browser of a desktop is opened for whoever sits there: never as root, and the link is in no argument."""

from __future__ import annotations

import contextlib
import os
import pty
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl.ui.desktop import Person, open_browser, person_at
from netctl.wire import agentrequests as a
from tests.support.patience import BUSY_S, wait_for
from tests.ui.uikit import Browser, command, host, page, peer

NOBODY = pwd.getpwnam("nobody")
OPENER = """#!/bin/sh
{ id -u; printf '%s\\n' "$@"; stat -c %a "${1#file://}"; cat "${1#file://}"; } > "$SEEN.part"
mv "$SEEN.part" "$SEEN"
"""
"""What a desktop has as xdg-open: here it writes down whose it is and what it was given."""
LINK = "http://127.0.0.1:1/login?token=a&b"


def somebody() -> pwd.struct_passwd | None:
    """A user of this machine who is not root and owns a home."""
    for entry in pwd.getpwall():
        place = Path(entry.pw_dir)
        if entry.pw_uid and place.is_dir() and place.stat().st_uid == entry.pw_uid:
            return entry
    return None


@pytest.fixture
def home() -> Iterator[Path]:
    """A place that another user can go to."""
    place = Path(tempfile.mkdtemp(prefix="netctl-home-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place)


@pytest.fixture
def seen(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the browser was given, once it was."""
    programs = home / "bin"
    programs.mkdir()
    (programs / "xdg-open").write_text(OPENER)
    (programs / "xdg-open").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(home / "seen"))
    return home / "seen"


@pytest.mark.parametrize(
    ("environ", "euid", "there"),
    [
        ({"DISPLAY": ":0"}, NOBODY.pw_uid, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, NOBODY.pw_uid, True),
        ({"DISPLAY": ":0", "SUDO_UID": str(NOBODY.pw_uid)}, 0, True),
        ({"DISPLAY": ":0"}, 0, False),
        ({"DISPLAY": ":0", "SUDO_UID": "0"}, 0, False),
        ({"DISPLAY": ":0", "SUDO_UID": "x"}, 0, False),
        ({"DISPLAY": ":0", "SUDO_UID": "4000000000"}, 0, False),
        ({"DISPLAY": ":0", "SUDO_UID": "9" * 30}, 0, False),
        ({"DISPLAY": "localhost:10.0"}, NOBODY.pw_uid, False),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "a"}, NOBODY.pw_uid, False),
        ({}, NOBODY.pw_uid, False),
    ],
)
def test_who_sits_at_the_desktop(environ: dict[str, str], euid: int, there: bool) -> None:
    found = person_at(environ, euid)
    assert (found is not None and found.name == "nobody") == there
    assert (found is None) != there


def test_a_browser_is_given_a_file_that_only_its_owner_reads(home: Path, seen: Path) -> None:
    me = pwd.getpwuid(os.getuid())
    if os.geteuid() == 0:
        os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
        me = NOBODY
    process = open_browser(Person(me.pw_uid, me.pw_gid, me.pw_name, str(home)), LINK)
    assert process is not None
    wait_for("it is opened", seen.exists)
    uid, url, mode, *text = seen.read_text().splitlines()
    assert int(uid) == me.pw_uid
    assert re.fullmatch(rf"file://{home}/netctl-page-[0-9a-f]{{16}}\.html", url)
    assert mode == "600"
    assert 'content="0;url=http://127.0.0.1:1/login?token=a&amp;b"' in "\n".join(text)
    arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"token" not in arguments
    assert process.stdin is not None
    process.stdin.close()
    process.wait(BUSY_S)
    assert not list(home.glob("netctl-page-*")), "the file goes with the page"


def test_without_an_opener_the_link_is_printed_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    assert open_browser(Person(1, 1, "x", str(home)), LINK) is None


@pytest.mark.parametrize("options", [(), ("--no-browser",)])
@pytest.mark.skipif(os.geteuid() != 0, reason="plays sudo, which only root can")
@pytest.mark.skipif(somebody() is None, reason="nobody on this machine but root owns a home")
def test_the_command_opens_it_for_who_called_sudo(
    home: Path, seen: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    person = somebody()
    assert person is not None
    os.chown(home, person.pw_uid, person.pw_gid)
    with host(tmp_path, peer("nas", "10.9.0.2")) as known:
        mine, its = pty.openpty()
        desk = {"DISPLAY": ":7", "SUDO_UID": str(person.pw_uid)}
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
        process = subprocess.Popen(
            command(known, *options), stdin=its, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environ | desk, cwd=known.directory,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            links = [process.stdout.readline().strip()]
            os.write(mine, b"\n")
            links.append(process.stdout.readline().strip())
            if not options:
                wait_for("it is opened", seen.exists)
                uid, _, _, text = seen.read_text().splitlines()
                assert int(uid) == person.pw_uid
                links += re.findall(r"url=([^\"]+)", text)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert len(children) == (1 if options else 2)
            assert len(set(links)) == (2 if options else 3), "each is a link of its own"
            for link in links:
                found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/login.*)", link)
                assert found is not None
                assert Browser(int(found[1])).get(found[2]).status == 200
        finally:
            os.write(mine, b"\x04")
            process.terminate()
            process.communicate(timeout=BUSY_S)
            os.close(mine)
            os.close(its)
    wait_for("the file is gone", lambda: not list(Path(person.pw_dir).glob("netctl-page-*")))


APPLICATION = """[Desktop Entry]
Type=Application
Name=Chromium of a test
Exec=chromium --headless=new --no-sandbox --disable-gpu --no-first-run --user-data-dir={home}/profile %U
MimeType=text/html;
"""


@pytest.mark.browser
@pytest.mark.skipif(os.geteuid() != 0, reason="a browser of somebody else: only root starts one")
@pytest.mark.skipif(
    not (shutil.which("xdg-open") and shutil.which("chromium")),
    reason="no xdg-open or Chromium here: `scripts/setup ui` installs them",
)
def test_the_desktops_own_opener_and_browser_lead_to_the_page(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opener and the browser of a desktop; of a desktop nothing is missing but its screen."""
    for place, text in {
        ".local/share/applications/of-a-test.desktop": APPLICATION.format(home=home),
        ".config/mimeapps.list": "[Default Applications]\ntext/html=of-a-test.desktop\n",
    }.items():
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text(text)
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    monkeypatch.setenv("DISPLAY", ":7")
    for name in ("BROWSER", "XDG_CURRENT_DESKTOP", "XDG_DATA_DIRS", "XDG_CONFIG_DIRS"):
        monkeypatch.delenv(name, raising=False)
    with host(tmp_path, peer("nas", "10.9.0.2")) as known, page(known) as served:
        person = Person(NOBODY.pw_uid, NOBODY.pw_gid, NOBODY.pw_name, str(home))
        process = open_browser(person, served.link)
        assert process is not None
        assert process.stdin is not None
        try:
            # The file, the link, the page, and its script: then the browser looks.
            wait_for("it looks", lambda: any(isinstance(one, a.Watch) for one in known.asked))
            assert Browser(served.port).get(served.path).status == 401, "the link is used up"
        finally:
            process.stdin.close()
            process.wait(BUSY_S)
            for pid in of_place(home):
                os.kill(pid, signal.SIGKILL)
            wait_for("the browser is gone", lambda: not of_place(home))


def of_place(home: Path) -> list[int]:
    """The processes that this test's browser consists of."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"--user-data-dir={home}/profile".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
