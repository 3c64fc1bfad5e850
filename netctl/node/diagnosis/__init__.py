"""The checks of `netctl doctor`, by subject: pure projections of a snapshot."""
