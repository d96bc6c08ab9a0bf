"""Calls of every kind on every front, and their books, held against those of the upstream."""
