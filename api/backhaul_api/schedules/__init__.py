"""Schedules: when a kind of job fires on a host. The agents converge to these rows."""
