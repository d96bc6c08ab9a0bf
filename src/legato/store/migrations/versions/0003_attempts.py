"""The ledger: attempts and cost."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("calls", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("calls", sa.Column("errors", sa.String(1000), nullable=False, server_default=""))
    op.add_column(
        "calls", sa.Column("continuations", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column("calls", sa.Column("cost", sa.Float, nullable=True))


def downgrade() -> None:
    for name in ("attempts", "errors", "continuations", "cost"):
        op.drop_column("calls", name)
