"""pfsync, the behaviour: what is told to peers, and what becomes of what they tell.

A flow that Linux tracks (a conntrack entry) and a state of pf stand for each other: `mapping`, with how far a flow has
come (`levels`), which flows are told at all (`selection`) and how long they live (`timeouts`).
"""
