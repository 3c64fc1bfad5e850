"""Access to the operating system: files, sockets, logs, clocks, tasks; used by engine, wg and the mediator's shell."""
