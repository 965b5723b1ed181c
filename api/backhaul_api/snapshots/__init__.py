"""Snapshots, as the agents last reported them."""
