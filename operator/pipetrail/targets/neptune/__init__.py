"""Neptune 1.x, spoken to by its own client in a process of its own; importing this imports no neptune.

Pure: `limits` and `fit` say what Neptune can hold, `paths` what it is called there, `operations` makes a batch into
what the client is asked to do, `held` reads it back. The process: `process` starts, bounds and kills it, `wire` is what
is said over its pipes; on the other side `worker` listens, `client` calls the vendor's package, `guard` watches what
that package sends, `troubles` says what its exceptions mean. `sender` has operations land, `target` puts it together.

Neptune's hosted service ended on 2026-03-05; what is left are servers that companies run themselves and others that
speak its protocol. No vendor's server could be had to try this on: tests/real/neptune.py stands in for one.
"""
