"""The way to the mediators: the control connection, enrolment, TLS to a pinned identity, proxies and NAT64."""
