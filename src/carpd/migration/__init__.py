"""From the files of other programs to ours: what `carpctl import` does.

    file -> words, blocks: its form          -> found: what a host has, in the keys of our configuration
         -> openbsd, freebsd, ucarp,             -> merge: what the hosts have in common, and each of its own
            keepalived, conntrackd: its meaning  -> write: TOML, and files for secrets

A reader takes text and gives what it found. It never fails on what it does not know: that is left over, with its place
and the reason, and told to the operator, without passwords (redaction). What our
configuration does not accept is left over too, in its own words.
"""
