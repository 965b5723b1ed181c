"""The agent: the process on each host that runs restic for the control plane."""
