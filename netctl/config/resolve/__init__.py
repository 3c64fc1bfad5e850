"""Computes one host's desired state from document and view, without the parts that the host refuses."""
