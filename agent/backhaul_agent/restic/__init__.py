"""What the agent knows of restic: command lines, output, exit codes. Runs nothing itself.

Facts are of restic 0.14.0 (Debian 12), tried; those of later versions come from restic's tagged
source and changelogs.
"""
