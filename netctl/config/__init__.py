"""Text to document to desired state, purely (floor F1)."""

from netctl.config.document import Loaded, load_document
from netctl.config.resolve import Condition, Resolution, resolve

__all__ = ["Condition", "Loaded", "Resolution", "load_document", "resolve"]
