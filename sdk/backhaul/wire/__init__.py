"""The contract: every message that the API, the agents and the SDK exchange.

Imports only the standard library and msgspec. Read `base` for how messages may change, `agents`
for the agent protocol, `jobs` for the states of a job, `problems` for how the API says no.
"""
