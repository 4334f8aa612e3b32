"""The simulator: several nodes on a seeded network, in virtual time, driving the same engine with the same bytes.

    python -m benchmarks.simulate --seeds 1000     # many random scenarios
    scenario.run(seed)                             # one; it raises ViolationErrorError with a transcript

It promises only what `invariants` says. Ref: design §4, §6.
"""
