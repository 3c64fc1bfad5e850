"""Opens the page in the browser of the person at this desktop, with that person's rights, never as root.

The link is a secret for five minutes, and every user of a machine can read the arguments of its programs (proc(5)). So
a shell that runs as the person gets the link on stdin, writes it into a file that only the person can read, and starts
the browser with that file, which leads to the link. It is a shell, because this Python may lie in a directory that the
person cannot enter.
"""

from __future__ import annotations

import contextlib
import html
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from netctl.system.ourselves import environment
from netctl.ui.logintokens import TOKEN_S

OPENER = "xdg-open"
"""The program that starts the browser of a desktop (xdg-utils)."""
AS_PERSON = f"""
umask 077
set -C
IFS= read -r page || exit 1
file="$HOME/netctl-page-$1.html"
printf '%s\\n' "$page" > "$file" || exit 1
trap 'rm -f "$file"' EXIT
trap 'exit 0' HUP INT TERM
{OPENER} "file://$file" < /dev/null &
timeout {TOKEN_S:.0f} cat > /dev/null
"""
"""Makes a new file (`set -C`), not in a hidden directory, which a browser in a sandbox could not read. Removes
the file
when stdin ends."""
PAGE = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={0}"><a href="{0}">netctl</a>'
"""The file that leads a browser to the link; `{0}`: the link, escaped for HTML."""


@dataclass(frozen=True, slots=True)
class Person:
    """The person at the desktop."""

    uid: int
    gid: int
    name: str
    home: str


def person_at(environ: Mapping[str, str], euid: int) -> Person | None:
    """The person whose desktop this process was started from, directly or by sudo; None: there is no desktop, it
    is over
    SSH, or the person is root."""
    display = environ.get("DISPLAY", "")
    if "SSH_CONNECTION" in environ or "SSH_TTY" in environ:
        return None
    if not (
        display.startswith(":") or environ.get("WAYLAND_DISPLAY")
    ):  # a display with a host name is on another machine
        return None
    number = environ.get("SUDO_UID", "") if euid == 0 else str(euid)
    if not (number.isascii() and number.isdigit()) or int(number) == 0:
        return None
    try:
        entry = pwd.getpwuid(int(number))
    except (KeyError, OverflowError):
        return None
    return Person(entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def open_browser(person: Person, link: str) -> subprocess.Popen[bytes] | None:
    """Start a browser with this link. The file with the link is there as long as the returned process runs.

    None: this system has no program to start a browser.
    """
    if shutil.which(OPENER) is None:
        return None
    runtime = f"/run/user/{person.uid}"
    more = {"HOME": person.home, "USER": person.name, "LOGNAME": person.name}
    if os.path.isdir(runtime):
        more |= {"XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus"}
    changes = os.geteuid() == 0 and person.uid != 0
    try:
        process = subprocess.Popen(
            ["sh", "-c", AS_PERSON, "sh", secrets.token_hex(8)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(**more),
            cwd="/",
            start_new_session=True,
            user=person.uid if changes else None,
            group=person.gid if changes else None,
            extra_groups=os.getgrouplist(person.name, person.gid) if changes else None,
        )
    except OSError:
        return None
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(PAGE.format(html.escape(link)).encode() + b"\n")
        process.stdin.flush()
    return process
