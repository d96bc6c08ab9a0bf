"""Persistent state: the database with API keys and the ledger."""
