"""The tests. A module is imported by its whole name: `tests.netns.netkit`."""
