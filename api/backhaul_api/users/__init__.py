"""Operators: the first one, signing in, their API tokens."""
