"""pfsync, the protocol by which packet filters exchange their states: bytes <-> values.

Two framings that do not understand each other: version 6 (`v6`: OpenBSD, and between Linux nodes) and version 5
(`v5`: FreeBSD, with three lengths of states). `packet` chooses between them. A packet is a list of batches (`batches`),
each a subheader and its messages, which are the same types in both: states (`state`), what is said about states
(`messages`), IPsec counters (`tdb`), what only Linux knows (`attributes`) and how Linux nodes make sure that nothing is
missed (`linux_messages`).
"""
