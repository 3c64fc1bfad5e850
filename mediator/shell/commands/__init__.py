"""One module for each command of `netctl-mediator`: `add` defines its options, `run` performs it."""
