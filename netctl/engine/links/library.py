"""Imports pyroute2 without the parts that nobody here uses.

The package's `__init__` imports all of pyroute2: databases, mocks, a 9P server, every netlink family. That is twice the
memory and the time of what `IPRoute` needs. So the package is imported without running its `__init__`, which runs once
a name of its own is asked for; then the package is as it always is.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

PACKAGE = "pyroute2"


class _Package(ModuleType):
    """The package before its `__init__` has run: only its submodules are there."""

    __spec__: ModuleSpec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        own = f"{PACKAGE}.{name}"
        if find_spec(own) is not None:
            return importlib.import_module(own)
        self.__class__ = ModuleType  # type: ignore[assignment] # mypy holds it for final
        loader = self.__spec__.loader
        assert loader is not None
        loader.exec_module(self)
        return getattr(self, name)


def iproute() -> Any:
    """The class `pyroute2.IPRoute`. Raises ImportError."""
    if PACKAGE not in sys.modules:
        spec = find_spec(PACKAGE)
        if spec is None or spec.loader is None:
            raise ImportError(f"there is no {PACKAGE}")
        package = module_from_spec(spec)
        package.__class__ = _Package
        sys.modules[PACKAGE] = package
    return importlib.import_module(f"{PACKAGE}.iproute.linux").IPRoute
