"""Sources: what to back up."""
