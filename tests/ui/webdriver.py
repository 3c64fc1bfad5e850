"""A real Chromium, driven by its own chromedriver (W3C WebDriver: JSON over HTTP)."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.patience import wait_for

WAIT_S = 60.0
Connect = Callable[[], http.client.HTTPConnection]
Inside = Callable[[list[str]], list[str]]
AXE = Path(__file__).parents[2] / ".cache/axe/package/axe.min.js"
"""Put there by `scripts/setup ui`; MPL-2.0, and no part of the product."""
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]


class Chromium:
    """One window."""

    def __init__(self, connect: Connect, *arguments: str) -> None:
        self._connect = connect
        options = {"args": [*ARGUMENTS, *arguments]}
        wanted = {
            "browserName": "chrome",
            "acceptInsecureCerts": True,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._base = self._home = ""
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base = f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, said: object = None) -> Any:
        connection = self._connect()
        try:
            body = json.dumps(said if said is not None else {}) if method == "POST" else None
            connection.request(method, self._base + path, body, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        assert not (isinstance(answer, dict) and "error" in answer), answer["message"]
        return answer

    def go(self, url: str) -> None:
        self._call("POST", "/url", {"url": url})

    def sign_in(self, link: str) -> None:
        """Open the link of a page, and wait for its first page: `see` leads to others below the same path."""
        self.go(link)
        wait_for("the link leads to the networks", lambda: self.text("nav") and "/login" not in self.url())
        self._home = self.url().rstrip("/")

    def see(self, path: str) -> None:
        self.go(self._home + path)

    def url(self) -> str:
        return str(self._call("GET", "/url"))

    def run(self, script: str, *arguments: object) -> Any:
        """The value of a function's body."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def run_until_told(self, script: str) -> Any:
        """The same, of what it hands to its last argument."""
        return self._call("POST", "/execute/async", {"script": script, "args": []})

    def text(self, selector: str) -> str | None:
        found = self.run(
            "const one = document.querySelector(arguments[0]); return one && one.textContent", selector
        )
        return None if found is None else str(found).strip()

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def type(self, keys: str) -> None:
        """On the keyboard, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def devtools(self, command: str, **parameters: object) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, width: int, height: int, scheme: str = "light", *, scripts: bool = True) -> None:
        """The window's size, the system's colours, and whether scripts run."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.devtools(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self.devtools("Emulation.setScriptExecutionDisabled", value=not scripts)

    def picture(self) -> bytes:
        return base64.b64decode(self._call("GET", "/screenshot"))

    def complaints(self) -> list[str]:
        """What the browser had to say: errors of scripts, what a policy forbade, what did not load."""
        return [line["message"] for line in self._call("POST", "/se/log", {"type": "browser"})]

    def axe(self) -> list[str]:
        """Findings of axe-core that are serious or worse."""
        self.run(AXE.read_text())
        found = self.run_until_told("const done = arguments[arguments.length - 1]; axe.run().then(done)")
        assert len(found["passes"]) > 10, "it has looked at nothing"
        return [
            f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:100]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    @contextmanager
    def another_tab(self) -> Iterator[None]:
        """One in front of this one, which comes to the front again."""
        before = self._call("GET", "/window")
        self._call(
            "POST", "/window", {"handle": self._call("POST", "/window/new", {"type": "tab"})["handle"]}
        )
        try:
            yield
        finally:
            self._call("DELETE", "/window")
            self._call("POST", "/window", {"handle": before})

    def quit(self) -> None:
        self._call("DELETE", "")


class _Through(http.client.HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=WAIT_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(self._path)


@contextmanager
def driver(inside: Inside = list) -> Iterator[int]:
    """A chromedriver, and its port. `inside`: the command line that runs another one where it is to run."""
    process = subprocess.Popen(inside(["chromedriver", "--port=0"]), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield next(
            int(found[1])
            for line in process.stdout
            if (found := re.search(r"successfully on port (\d+)", line))
        )
    finally:
        process.terminate()
        process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()  # on another host the driver itself lives on until that ends, and has the other end


@contextmanager
def chromium(*arguments: str) -> Iterator[Chromium]:
    """A browser that ends with the block."""
    with driver() as port:
        browser = Chromium(lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S), *arguments)
        try:
            yield browser
        finally:
            browser.quit()


@contextmanager
def chromium_inside(inside: Inside, place: Path) -> Iterator[Chromium]:
    """A browser on a host in a namespace of its own. `place`: a directory that the host has too."""
    way = place / "driver.sock"
    with driver(inside) as port:
        bridge = subprocess.Popen(inside(["socat", f"UNIX-LISTEN:{way},fork", f"TCP:127.0.0.1:{port}"]))
        try:
            wait_for("the way to the driver is there", way.exists)
            browser = Chromium(lambda: _Through(way))
            try:
                yield browser
            finally:
                browser.quit()
        finally:
            bridge.terminate()
            bridge.wait(WAIT_S)
