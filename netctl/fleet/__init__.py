"""Fleets: roll-outs over SSH, documents from Git, review comments, imports of wg-quick files (floor F4)."""
