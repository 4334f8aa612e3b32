"""State synchronisation side by side: conntrackd's modes and pfsyncd, in one laboratory. See `__main__`."""
