"""The page of a host, and what it shares with `netctl top`: what is shown, who may see it, and how it is asked
for."""
