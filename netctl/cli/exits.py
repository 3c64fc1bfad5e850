"""Exit statuses of commands that change a host, as `netctl apply --help` lists them."""

CONVERGED, FAILED, CHANGES, ROLLED_BACK, ROLL_BACK_FAILED = 0, 1, 2, 3, 4
