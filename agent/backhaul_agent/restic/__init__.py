"""What the agent knows of restic: command lines, output, exit codes. Runs nothing itself.

Facts are of restic 0.14.0 (Debian 12), 0.18.0 (Debian 13) and 0.19.1, tried and recorded in
tests/data; those of other versions come from restic's tagged source and changelogs.
"""
