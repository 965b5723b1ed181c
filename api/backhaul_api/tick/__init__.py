"""What time alone makes necessary: done by whoever ticks, and needed by nothing to be right."""
