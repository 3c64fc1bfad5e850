"""Connections to mediators: control connection, enrolment, TLS to a pinned identity, proxies and NAT64."""
