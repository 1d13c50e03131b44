"""The answer in words. `summary` assembles the sentences; add one in `laws`, `verdicts` or `evidence`."""
