"""Responses that are kept, so that a later request can go on with them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
        sa.Column("inputs", sa.Integer, nullable=False),
        sa.Column("items", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
    )
    op.create_index("responses_expires", "responses", ["expires"])


def downgrade() -> None:
    op.drop_index("responses_expires", "responses")
    op.drop_table("responses")
