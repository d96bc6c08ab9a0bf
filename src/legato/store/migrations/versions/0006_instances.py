"""The ledger: owner, instance and time in the queue of a call; counts of 64 bits on PostgreSQL."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

#: SQLite's integers have 64 bits anyway. An upstream may report any number.
COUNTS = (
    *(f"{kind}_tokens" for kind in ("prompt", "completion", "reasoning", "cached", "cache_write")),
    "frames",
    "bytes",
    "attempts",
    "continuations",
    "stripped_reasoning",
)


def upgrade() -> None:
    op.add_column("calls", sa.Column("owner", sa.String(200), nullable=True))
    op.add_column("calls", sa.Column("instance", sa.String(32), nullable=True))
    op.add_column("calls", sa.Column("queued", sa.Float, nullable=False, server_default="0"))
    # Rows without an instance belong to no server that could close them at its start.
    op.execute("UPDATE calls SET outcome = 'interrupted' WHERE outcome = 'open'")
    _alter_counts(sa.BigInteger())


def downgrade() -> None:
    _alter_counts(sa.Integer())
    for name in ("owner", "instance", "queued"):
        op.drop_column("calls", name)


def _alter_counts(type_: sa.Integer) -> None:
    if op.get_bind().dialect.name == "postgresql":
        for name in COUNTS:
            op.alter_column("calls", name, type_=type_, existing_nullable=False)
