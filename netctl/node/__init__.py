"""The decisions of one host, as a pure core: events come in, effects go out; no sockets, clocks or files."""
