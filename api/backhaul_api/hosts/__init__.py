"""Hosts, and the enrollment tokens with which they join."""
