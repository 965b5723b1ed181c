"""Programs for those who work on Backhaul: the demo, and what the system tests share with it."""
