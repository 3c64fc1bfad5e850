"""Which tests may run beside each other: those with real packets never, they measure silences; all others do."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL = Path(__file__).parent / "netns"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            group = "real" if item.path.is_relative_to(REAL) else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))
