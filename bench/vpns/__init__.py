"""Set up other VPNs between the two namespaces of bench_dataplane, as their manuals say, with an inner MTU of 1,420.

Each function takes its program's path, a `World` and a private directory, and yields the process ids of both ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MTU = 1420
PORT = 19950
"""A port below 32,768, as n2n keeps it in a signed short."""
PATIENCE_S = 20


@dataclass(frozen=True)
class World:
    """Both namespaces: runs commands in them, and has the outer and inner addresses."""

    inside: Callable[..., list[str]]
    outer: tuple[str, str]
    inner: tuple[str, str]

    def run(self, side: int, *argv: str, text: str | None = None) -> str:
        """Run a command in a namespace; returns its output. Raises CalledProcessError."""
        command = self.inside(side, *argv)
        return subprocess.run(
            command, check=True, capture_output=True, text=True, input=text, timeout=60
        ).stdout

    def configure(self, side: int, link: str) -> None:
        """Wait for the interface, then set its address and MTU."""
        deadline = time.monotonic() + PATIENCE_S
        while re.search(rf"^{link}\b", self.run(side, "ip", "-br", "link"), re.MULTILINE) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{link} does not come up")
            time.sleep(0.05)
        self.run(side, "ip", "link", "set", link, "mtu", str(MTU), "up")
        if self.inner[side] not in self.run(side, "ip", "-br", "address", "show", "dev", link):
            self.run(side, "ip", "address", "add", f"{self.inner[side]}/24", "dev", link)


@contextlib.contextmanager
def _both(world: World, commands: list[list[str]], directory: Path) -> Iterator[list[int]]:
    started: list[subprocess.Popen[bytes]] = []
    try:
        for side, command in enumerate(commands):
            with (directory / f"log{side}").open("wb") as log:
                started.append(subprocess.Popen(world.inside(side, *command), stdout=log, stderr=log))
        yield [process.pid for process in started]
        if any(process.poll() is not None for process in started):  # it forked, and would outlive this run
            raise RuntimeError(f"{commands[0][0]} ended or went to the background: see {directory}/log0")
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(10)


@contextlib.contextmanager
def nebula(program: str, world: World, directory: Path) -> Iterator[list[int]]:
    """nebula: certificates, one static host each way, the default AES."""
    cert = [f"{program}-cert"]
    files = {name: str(directory / name) for name in ("ca.crt", "ca.key")}
    subprocess.run(
        [*cert, "ca", "-name", "bench", "-out-crt", files["ca.crt"], "-out-key", files["ca.key"]], check=True
    )
    commands = []
    for side in (0, 1):
        crt, key, config = (str(directory / f"{side}.{kind}") for kind in ("crt", "key", "yml"))
        sign = [*cert, "sign", "-name", f"host{side}", "-ip", f"{world.inner[side]}/24"]
        sign += ["-ca-crt", files["ca.crt"], "-ca-key", files["ca.key"], "-out-crt", crt, "-out-key", key]
        subprocess.run(sign, check=True)
        Path(config).write_text(
            f"pki: {{ca: {files['ca.crt']}, cert: {crt}, key: {key}}}\n"
            f"static_host_map: {{'{world.inner[1 - side]}': ['{world.outer[1 - side]}:{PORT}']}}\n"
            "lighthouse: {am_lighthouse: false, hosts: []}\n"
            f"listen: {{host: 0.0.0.0, port: {PORT}}}\n"
            f"tun: {{dev: nebula{side}, mtu: {MTU}}}\n"
            "firewall: {outbound: [{port: any, proto: any, host: any}],"
            " inbound: [{port: any, proto: any, host: any}]}\n"
        )
        commands.append([program, "-config", config])
    with _both(world, commands, directory) as pids:
        for side in (0, 1):
            world.configure(side, f"nebula{side}")
        yield pids


@contextlib.contextmanager
def fastd(program: str, world: World, directory: Path) -> Iterator[list[int]]:
    """fastd with its fastest authenticated method."""
    keys = []
    for _ in (0, 1):
        made = subprocess.run([program, "--generate-key"], check=True, capture_output=True, text=True)
        keys.append(re.findall(r"(?:Secret|Public): (\w+)", made.stdout + made.stderr))
    commands = []
    for side in (0, 1):
        config = directory / f"{side}.conf"
        config.write_text(
            f'interface "fastd{side}";\nmode tun;\nmtu {MTU};\nmethod "salsa2012+umac";\n'
            f'bind {world.outer[side]}:{PORT};\nsecret "{keys[side][0]}";\nlog level warn;\n'
            f'peer "other" {{ key "{keys[1 - side][1]}"; remote {world.outer[1 - side]}:{PORT}; }}\n'
        )
        commands.append([program, "-c", str(config)])
    with _both(world, commands, directory) as pids:
        for side in (0, 1):
            world.configure(side, f"fastd{side}")
        yield pids


@contextlib.contextmanager
def openvpn(program: str, world: World, directory: Path) -> Iterator[list[int]]:
    """OpenVPN: point to point over TLS with pinned certificates; AES-256-GCM, in user space."""
    prints = []
    for side in (0, 1):
        request = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        request += ["-keyout", str(directory / f"{side}.key"), "-out", str(directory / f"{side}.crt")]
        subprocess.run([*request, "-subj", f"/CN=host{side}", "-days", "2"], check=True, capture_output=True)
        show = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(directory / f"{side}.crt")]
        prints.append(
            subprocess.run(show, check=True, capture_output=True, text=True).stdout.partition("=")[2].strip()
        )
    commands = []
    for side in (0, 1):
        command = [
            program,
            "--dev",
            f"ovpn{side}",
            "--dev-type",
            "tun",
            "--proto",
            "udp",
            "--port",
            str(PORT),
        ]
        command += ["--cert", str(directory / f"{side}.crt"), "--key", str(directory / f"{side}.key")]
        command += ["--peer-fingerprint", prints[1 - side], "--tun-mtu", str(MTU), "--disable-dco"]
        command += ["--ifconfig", world.inner[side], world.inner[1 - side], "--data-ciphers", "AES-256-GCM"]
        command += ["--tls-server", "--dh", "none"] if side else ["--tls-client", "--remote", world.outer[1]]
        commands.append(command)
    with _both(world, commands, directory) as pids:
        yield pids


@contextlib.contextmanager
def tinc(program: str, world: World, directory: Path) -> Iterator[list[int]]:
    """tinc in router mode."""
    for side in (0, 1):
        home = directory / str(side)
        (home / "hosts").mkdir(parents=True)
        connect = f"ConnectTo = host{1 - side}\n" if side else ""
        (home / "tinc.conf").write_text(
            f"Name = host{side}\nMode = router\nInterface = tinc{side}\n{connect}"
        )
        (home / "hosts" / f"host{side}").write_text(
            f"Address = {world.outer[side]} {PORT}\nPort = {PORT}\nSubnet = {world.inner[side]}/32\n"
        )
        subprocess.run(
            [program, "-c", str(home), "-K", "2048"], check=True, capture_output=True, input=b"\n\n"
        )
    for side in (0, 1):
        other = (directory / str(1 - side) / "hosts" / f"host{1 - side}").read_text()
        (directory / str(side) / "hosts" / f"host{1 - side}").write_text(other)
    commands = [
        [program, "-c", str(directory / str(side)), "-D", f"--pidfile={directory / str(side) / 'pid'}"]
        for side in (0, 1)
    ]
    with _both(world, commands, directory) as pids:
        for side in (0, 1):
            world.configure(side, f"tinc{side}")
        yield pids


@contextlib.contextmanager
def edge(program: str, world: World, directory: Path) -> Iterator[list[int]]:
    """n2n: a supernode beside the first edge."""
    supernode = str(Path(program).with_name("supernode"))
    if not Path(supernode).exists():
        supernode = "supernode"
    with (directory / "supernode.log").open("wb") as log:
        server = subprocess.Popen(world.inside(0, supernode, "-l", str(PORT + 1)), stdout=log, stderr=log)
    usage = subprocess.run([program, "-h"], check=False, capture_output=True, text=True)
    # `-f` keeps version 3 in the foreground and sends version 1, which Debian has, to the background.
    foreground = ["-f"] if re.search(r"-f .*do not fork", usage.stdout + usage.stderr, re.IGNORECASE) else []
    commands = []
    for side in (0, 1):
        command = [
            program,
            "-d",
            f"edge{side}",
            "-a",
            world.inner[side],
            "-c",
            "bench",
            "-k",
            "secret",
        ]
        command += ["-l", f"{world.outer[0]}:{PORT + 1}", "-p", str(PORT), "-M", str(MTU)]
        commands.append(command + foreground)
    try:
        with _both(world, commands, directory) as pids:
            for side in (0, 1):
                world.configure(side, f"edge{side}")
            yield pids
    finally:
        server.terminate()
        server.wait(10)


KINDS = {"nebula": nebula, "fastd": fastd, "openvpn": openvpn, "tincd": tinc, "edge": edge}
"""Functions by name of the program; other programs are started as wireguard-go."""


def kind(path: str) -> Callable[[str, World, Path], contextlib.AbstractContextManager[list[int]]] | None:
    """The function that starts the program at `path`; None: start it as wireguard-go."""
    return KINDS.get(os.path.basename(path))
