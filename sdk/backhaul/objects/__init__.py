# Written by tools/write_sync.py from backhaul/aio/__init__.py: change that.
"""The objects of a fleet for those who wait."""
