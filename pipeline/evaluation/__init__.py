"""Spot-evaluation of a checkpoint on held-out records: losses, turn-taking, latency, report and gate."""
