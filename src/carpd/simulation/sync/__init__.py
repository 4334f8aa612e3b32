"""Simulated state synchronisation: nodes with their connection tracking tables, traffic, faults, and what is promised.

`scenario.run(seed)` is one random scenario. A violation names the seed, what is wrong, and what led to it.
"""
