"""What Backhaul's figures are held against: the same work done by less, measured in the same run.

Each is a program of its own, `python -m bench.baselines.NAME PORT`, which parks
`POST /v1/agent/poll` by the token that it comes with, and wakes it by `POST /v1/jobs` with
`{"host": TOKEN}`. Nothing is stored, nobody is authenticated.
"""
