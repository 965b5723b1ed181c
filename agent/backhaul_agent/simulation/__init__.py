"""`backhaul simulate`: thousands of agents in one process, to size a server with.

What speaks and decides is the agent's own: the loops of poll and spool, the inbox, the policy, the
timers and the backoff. Made up is only what would make each of them heavy or slow: the connections
are bare, the journal is in memory, one timetable serves all, and restic is drawn from dice.
"""
