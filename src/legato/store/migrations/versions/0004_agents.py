"""The ledger: front, session and agent of a call, cache writes, stripped reasoning."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name in ("cache_write_tokens", "stripped_reasoning"):
        op.add_column("calls", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    # Every call before this revision came through the one front that there was.
    op.add_column("calls", sa.Column("front", sa.String(16), nullable=False, server_default="chat"))
    op.add_column("calls", sa.Column("session", sa.String(200), nullable=True))
    op.add_column("calls", sa.Column("agent", sa.String(64), nullable=True))


def downgrade() -> None:
    for name in ("cache_write_tokens", "stripped_reasoning", "front", "session", "agent"):
        op.drop_column("calls", name)
