"""The oracle of the fast path: generated conversations, each played with it and without it.

Both must give the same: each client's bytes, ledger rows, and requests to upstreams.

`conversation` is what is played, as plain data; `generate` makes one of a seed and a number; `play`
plays it against a virtual event loop (`loop`, `network`), without sockets and without waiting;
`compare` finds the first difference; `shrink` makes a failing conversation small.
"""
