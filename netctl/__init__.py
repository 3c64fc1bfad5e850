"""netctl: a declarative, self-hosted mesh network, run as code (see docs/design.md)."""

__version__ = "0.2.0.dev0"
