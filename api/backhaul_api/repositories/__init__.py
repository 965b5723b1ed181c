"""Repositories and their secrets."""
