"""Links, addresses and routes: changes ours, reads foreign ones, and listens for changes of both."""
