"""What one host does, decided purely: state and events in, effects out (no sockets, clocks or files)."""
