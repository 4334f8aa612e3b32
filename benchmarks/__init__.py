"""carpd beside ucarp and keepalived, in one laboratory and one run: `make bench`, `make soak`.

`failover` measures what a client sees of failures, `scale` what many virtual hosts cost, `sharing` what hosts do that
share the traffic to an address, `control` what elections feel of those who ask, `carpctl` how long that command takes,
and `soak` looks for false take-overs under load.
"""
