"""What tests of several rooms share: hosts, waiting, simulated paths, documents."""
