"""The tables of the database: API keys, the audit log, the ledger and what remains of its deleted
rows, kept responses. The migrations create them."""

from typing import Final

import sqlalchemy as sa

#: The newest migration; a test compares it with the files in `migrations/versions`.
HEAD: Final = "0008"

#: Token counts in the ledger that have a column with their source.
TOKENS: Final = ("prompt", "completion", "reasoning", "cached")

metadata = sa.MetaData()

#: 64 bits on both databases; SQLite's own INTEGER has them.
Whole: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_IS_OPEN: Final = sa.text("outcome = 'open'")

#: API keys. The columns are the fields of `policy.keys.Key`, in the same order, and `changed`: the
#: number of the change that wrote the row last. `limits`, `budget`, `routes` and `tags` are JSON.
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float, nullable=True),
    sa.Column("owner", sa.String(200), nullable=True),
    sa.Column("tier", sa.String(200), nullable=True),
    sa.Column("limits", sa.Text, nullable=True),
    sa.Column("budget", sa.Text, nullable=True),
    sa.Column("routes", sa.Text, nullable=True),
    sa.Column("expires", sa.Float, nullable=True),
    sa.Column("tags", sa.Text, nullable=True),
    sa.Column("is_disabled", sa.Boolean, nullable=False),
    sa.Column("previous", sa.LargeBinary(32), nullable=True),
    sa.Column("previous_until", sa.Float, nullable=True),
    sa.Column("role", sa.String(16), nullable=True),
    sa.Column("changed", Whole, nullable=False),
    sa.Index("keys_name", "name"),
    sa.Index("keys_created", "created", "id"),
    sa.Index("keys_changed", "changed", "id"),
)

#: The audit log: one row for each administrative act. Triggers refuse to change or delete a row.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Whole, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("origin", sa.String(200), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("before", sa.Text, nullable=True),
    sa.Column("after", sa.Text, nullable=True),
    sa.Index("audit_time", "time"),
    sa.Index("audit_subject", "subject"),
)

#: The ledger. The columns are the fields of `policy.ledger.Row`, in the same order.
calls = sa.Table(
    "calls",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("key", sa.String(32), nullable=True),
    sa.Column("route", sa.String(200), nullable=True),
    sa.Column("upstream_id", sa.String(200), nullable=True),
    sa.Column("deployments", sa.String(500), nullable=False),
    sa.Column("streamed", sa.Boolean, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("error", sa.String(64), nullable=True),
    *(sa.Column(f"{kind}_tokens", Whole, nullable=False) for kind in TOKENS),
    *(sa.Column(f"{kind}_from", sa.String(8), nullable=False) for kind in TOKENS),
    *(
        sa.Column(name, sa.Float, nullable=True)
        for name in ("ttft", "itl_p50", "itl_p99", "longest_gap", "duration")
    ),
    sa.Column("frames", Whole, nullable=False),
    sa.Column("bytes", Whole, nullable=False),
    sa.Column("attempts", Whole, nullable=False),
    sa.Column("errors", sa.String(1000), nullable=False),
    sa.Column("continuations", Whole, nullable=False),
    sa.Column("cost", sa.Float, nullable=True),
    sa.Column("cache_write_tokens", Whole, nullable=False),
    sa.Column("front", sa.String(16), nullable=False),
    sa.Column("session", sa.String(200), nullable=True),
    sa.Column("agent", sa.String(64), nullable=True),
    sa.Column("stripped_reasoning", Whole, nullable=False),
    sa.Column("owner", sa.String(200), nullable=True),
    sa.Column("instance", sa.String(32), nullable=True),
    sa.Column("queued", sa.Float, nullable=False),
    sa.Index("calls_received", "received"),
    sa.Index("calls_open", "outcome", sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN),
)

#: Sums of the rows that `retention_days` deleted from the ledger. `day`: in UTC; `key` and `owner`:
#: "" for none; `cost`: in US dollars, 0 for calls without a price; `last_received`: of these calls.
daily_sums = sa.Table(
    "daily_sums",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(200), primary_key=True),
    sa.Column("calls", Whole, nullable=False),
    sa.Column("prompt_tokens", Whole, nullable=False),
    sa.Column("completion_tokens", Whole, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),
    sa.Column("last_received", sa.Float, nullable=False),
)

#: Responses that are kept (`store.responses`).
responses = sa.Table(
    "responses",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("inputs", sa.Integer, nullable=False),
    sa.Column("items", sa.LargeBinary, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.Index("responses_expires", "expires"),
)

#: A change counter for each subject: a running server detects changes without reading all rows.
changes = sa.Table(
    "changes",
    metadata,
    sa.Column("subject", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
)
