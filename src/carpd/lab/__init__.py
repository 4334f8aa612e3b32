"""A laboratory of network namespaces: the demo, the tests in namespaces and the benchmarks are made with it.

`topology` builds nodes, switches and cables; `nodes` runs programs in them; `firewalls` is the network of the demo,
`rules` are its packet filters; `traffic` measures what a client sees, and `measure` reads gaps, stalls and throughput
from it.
"""
