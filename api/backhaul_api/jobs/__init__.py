"""Jobs: made by operators and schedules, moved by what agents report."""
