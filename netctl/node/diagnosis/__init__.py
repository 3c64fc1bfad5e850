"""What `netctl doctor` looks at, by subject: pure projections of a snapshot."""
