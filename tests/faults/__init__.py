"""Faults on purpose: a worker killed, paused and cut off at every point, and a checker over all that came of it."""
