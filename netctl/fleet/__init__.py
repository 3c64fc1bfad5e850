"""Fleets: roll-outs over SSH, documents from Git, reviews, and what comes from elsewhere."""
