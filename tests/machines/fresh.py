"""`make test-fresh`: the README's two commands in a fresh clone, on a distribution that has nothing of ours.

Each runs in a container over a root file system made by mmdebstrap: an empty home, no caches, no package but what the
README asks for. Only how packages are reached (apt's and pip's settings of this machine) is passed through. Its network
is its own: slirp4netns answers for a way out, so packages come, and nothing in there touches this machine's links,
routes and tables. All commands are tried, also where one has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.machines.rootfs import (
    DISTRIBUTIONS,
    FRESH,
    OVER,
    PIVOT,
    ROOT,
    CannotBeHad,
    Distribution,
    apt_settings,
    base,
    pip_settings,
    why_not,
)

WAY_OUT = "slirp4netns"
RESOLVER = "10.0.2.3"
"""Where slirp4netns answers for DNS, as this machine's resolver does."""

_RUN = f"""
set -e
{OVER}
mkdir -p "$root/mnt/settings" "$root/mnt/source"
mount --bind "$3" "$root/mnt/settings"
mount --bind -o ro "$4" "$root/mnt/source"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" 2> /dev/null || true
echo "nameserver $RESOLVER" > "$root/etc/resolv.conf"
cat /etc/hosts > "$root/etc/hosts"
echo fresh > "$root/etc/hostname"
shift 4
{PIVOT}
exec env -i "$@"
"""
_GUARD = "nsenter --target 1 --mount test -e /mnt/settings/apt.conf"
"""Fails where entering a namespace would lead out of the container; then nothing is run."""
_CLONE = """
set -e
cp /mnt/settings/apt.conf /etc/apt/apt.conf.d/99fresh
git -c safe.directory='*' clone --quiet /mnt/source /root/netctl
"""


@contextlib.contextmanager
def network() -> Iterator[int]:
    """A network namespace with a way out and none in; a descriptor of it. Raises CannotBeHad."""
    holder = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
    way = [WAY_OUT, "--configure", "--disable-host-loopback"]
    with tempfile.TemporaryFile() as said, subprocess.Popen(holder, stdout=subprocess.PIPE) as holding:
        try:
            assert holding.stdout is not None
            holding.stdout.readline()
            ready, told = os.pipe()
            with subprocess.Popen(
                [*way, f"--ready-fd={told}", str(holding.pid), "tap0"],
                stdout=said,
                stderr=said,
                pass_fds=[told],
            ) as answering:
                os.close(told)
                try:
                    with os.fdopen(ready, "rb") as pipe:
                        if pipe.read(1) != b"1":
                            said.seek(0)
                            raise CannotBeHad(f"fresh: {WAY_OUT}: {said.read()[-500:].decode()}")
                    descriptor = os.open(f"/proc/{holding.pid}/ns/net", os.O_RDONLY)
                    try:
                        yield descriptor
                    finally:
                        os.close(descriptor)
                finally:
                    answering.terminate()
        finally:
            holding.kill()


def variables(settings: Path) -> list[str]:
    """The environment: what a login has, and how pip reaches its index."""
    reach = pip_settings()
    authorities = next((reach[name] for name in ("PIP_CERT", "SSL_CERT_FILE") if name in reach), None)
    for name, value in list(reach.items()):
        if name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") and authorities:
            reach[name] = "/mnt/settings/authorities.pem"
        elif value.startswith("/"):
            del reach[name]  # a place on this machine alone
    if authorities:
        (settings / "authorities.pem").write_bytes(Path(authorities).read_bytes())
    login = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    return [f"{name}={value}" for name, value in {**login, **reach}.items()]


def try_on(distribution: Distribution, commands: list[str]) -> list[str]:
    """What failed. Raises CannotBeHad."""
    root = base(distribution, FRESH, "fresh")
    failed = []
    with tempfile.TemporaryDirectory(prefix="netctl-fresh-") as name, network() as way_out:
        settings, place, source = (Path(name, part) for part in ("settings", "place", "source"))
        settings.mkdir()
        place.mkdir()
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(source)], check=True)
        (settings / "apt.conf").write_text(apt_settings())
        script = f"hostname fresh; {_GUARD} || {{ echo '!! the container'; exit 1; }}\n{_CLONE}set +e\n"
        script += "cd /root/netctl; failed=0\n"
        for command in commands:
            script += f"echo '== {command}'; ({command}) < /dev/null || "
            script += f"{{ echo '!! '{shlex.quote(command)}; failed=1; }}\n"
        script += "exit $failed\n"
        began = time.monotonic()
        unshare = [
            *("nsenter", f"--net=/proc/self/fd/{way_out}"),
            *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
            *("--propagation", "private", "env", f"RESOLVER={RESOLVER}", "sh", "-c", _RUN, "fresh"),
        ]
        places = [str(path) for path in (root, place, settings, source)]
        with subprocess.Popen(
            [*unshare, *places, *variables(settings), "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[way_out],
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"{distribution.name}: {line}", end="", flush=True)
                if line.startswith("!! "):
                    failed.append(line[3:].strip())
        if process.returncode != 0 and not failed:
            failed.append("the container")
        print(f"{distribution.name}: {time.monotonic() - began:.0f} s", flush=True)
    return failed


def main() -> int:
    """Exit status 1 when a command failed somewhere; 77 when nothing could be tried here, with the reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--on", default=",".join(DISTRIBUTIONS), help="distributions (default: all)")
    parser.add_argument("--slice", default="", help="arguments of pytest instead of the whole `make test`")
    arguments = parser.parse_args()
    reason = why_not()
    if reason is None and shutil.which(WAY_OUT) is None:
        reason = f"fresh: {WAY_OUT} is not installed"
    if reason is not None:
        print(f"SKIP {reason}", file=sys.stderr)
        return 77
    tests = f".venv/bin/pytest -q {arguments.slice}" if arguments.slice else "make test"
    result = 0
    for name in arguments.on.split(","):
        try:
            failed = try_on(DISTRIBUTIONS[name], ["make demo", tests])
        except CannotBeHad as error:
            print(f"SKIP {name}: {error}", flush=True)
            continue
        print(
            f"{'FAIL' if failed else 'PASS'} {name}{': ' + '; '.join(failed) if failed else ''}", flush=True
        )
        result = result or int(bool(failed))
    return result


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    sys.exit(main())
