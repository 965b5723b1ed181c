"""What Backhaul's figures are held against: the same work done by less, measured in the same run.

Each is a program of its own, `python -m bench.baselines.NAME PORT`. The first two park
`POST /v1/agent/poll` by the token that it comes with, and wake it by `POST /v1/jobs` with
`{"hosts": [TOKEN]}`; `POST /v1/agent/envelopes` gets a receipt for each envelope. Nothing is
stored, nobody is authenticated. `sockets` does the same over WebSockets, `orm_fires` says what it
does itself.
"""
