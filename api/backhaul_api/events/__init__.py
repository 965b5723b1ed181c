"""Events: a feed of what happens, for whoever follows it."""
