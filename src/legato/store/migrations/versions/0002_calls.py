"""The ledger: one row a call."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "calls",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("received", sa.Float, nullable=False),
        sa.Column("key", sa.String(32), nullable=True),
        sa.Column("route", sa.String(200), nullable=True),
        sa.Column("upstream_id", sa.String(200), nullable=True),
        sa.Column("deployments", sa.String(500), nullable=False),
        sa.Column("streamed", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("error", sa.String(64), nullable=True),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("reasoning_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("prompt_from", sa.String(8), nullable=False),
        sa.Column("completion_from", sa.String(8), nullable=False),
        sa.Column("reasoning_from", sa.String(8), nullable=False),
        sa.Column("cached_from", sa.String(8), nullable=False),
        sa.Column("ttft", sa.Float, nullable=True),
        sa.Column("itl_p50", sa.Float, nullable=True),
        sa.Column("itl_p99", sa.Float, nullable=True),
        sa.Column("longest_gap", sa.Float, nullable=True),
        sa.Column("duration", sa.Float, nullable=True),
        sa.Column("frames", sa.Integer, nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
    )
    op.create_index("calls_received", "calls", ["received"])
    # A partial index: finding the few open rows after a crash must not scan the table.
    is_open = sa.text("outcome = 'open'")
    op.create_index(
        "calls_open", "calls", ["outcome"], sqlite_where=is_open, postgresql_where=is_open
    )


def downgrade() -> None:
    op.drop_table("calls")
