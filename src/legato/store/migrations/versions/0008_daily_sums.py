"""Sums by day of the rows of the ledger that are deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "daily_sums",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("calls", WHOLE, nullable=False),
        sa.Column("prompt_tokens", WHOLE, nullable=False),
        sa.Column("completion_tokens", WHOLE, nullable=False),
        sa.Column("cost", sa.Float, nullable=False),
        sa.Column("last_received", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("daily_sums")
