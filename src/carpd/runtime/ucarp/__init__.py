"""The program `ucarp`: one virtual host with one IPv4 address, which scripts put on and take away.

It does what ucarp 1.5.2 does, by its options, signals, scripts and messages, with carpd's election: `options` reads
the command line, which makes `settings`; `log` is what it prints, `scripts` runs the two scripts, `loop` does the rest.

Where it differs: scripts run beside the election, which never waits for them; a master that leaves with `-z` bows out,
so that the other takes over at once; and so does one that SIGUSR2 demotes. There is no lease gate, since the address
belongs to the scripts: one that is killed leaves its address behind, as ucarp does. Ref: spec carp §18.
"""
