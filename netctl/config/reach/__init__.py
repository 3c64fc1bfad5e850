"""Computes which members reach which by a document, and how that changes between two documents."""
