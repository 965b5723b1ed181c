"""Questions that operators ask of hosts, and wait for: what is in a snapshot."""
