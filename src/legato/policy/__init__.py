"""Decisions about keys, routes, health, retries, prices and ledger rows. Does no I/O."""
