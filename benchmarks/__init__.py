"""carpd beside ucarp and keepalived, in one laboratory and one run: `make bench`, `make soak`.

`failover` measures what a client sees of failures, `scale` what many virtual hosts cost, and `soak` looks for false
take-overs under load.
"""
