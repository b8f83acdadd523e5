"""Pure decisions: who waits, who is evicted, which item goes where.

The standard library only; no clock (time is an argument), no I/O, no torch, no randomness.
"""
