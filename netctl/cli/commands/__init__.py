"""One module for each command of `netctl`: `add` defines its options, `run` performs it."""
