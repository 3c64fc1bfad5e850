"""Entry point of the command: answers `--version` before the import of the command line."""

from __future__ import annotations

import sys

from netctl import __version__


def main() -> int:
    """Run `netctl`. Returns the exit status."""
    if sys.argv[1:] == ["--version"]:
        from netctl.wg import native

        sys.stdout.write(f"netctl {__version__}\nnetctl-wg's data path: {native.describe()}\n")
        return 0
    from netctl.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
