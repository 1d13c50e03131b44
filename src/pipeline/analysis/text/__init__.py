"""The answer in words. `summary` assembles the sentences; add one there or in `laws`."""
