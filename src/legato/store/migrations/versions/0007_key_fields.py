"""API keys: owner, tier, limits, budget, routes, expiry, tags, rotation, role; the audit log."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

INDEXES = {
    "keys_name": ["name"],
    "keys_created": ["created", "id"],
    "keys_changed": ["changed", "id"],
}


def upgrade() -> None:
    for column in _columns():
        op.add_column("keys", column)
    for name, columns in INDEXES.items():
        op.create_index(name, "keys", columns)
    op.create_table(
        "audit",
        sa.Column("id", WHOLE, primary_key=True, autoincrement=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("origin", sa.String(200), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("before", sa.Text, nullable=True),
        sa.Column("after", sa.Text, nullable=True),
        sqlite_autoincrement=True,  # the id of a deleted row would be used again
    )
    op.create_index("audit_time", "audit", ["time"])
    op.create_index("audit_subject", "audit", ["subject"])
    if op.get_bind().dialect.name == "postgresql":
        _protect_on_postgresql()
    else:
        _protect_on_sqlite()


def downgrade() -> None:
    _revoke_what_would_be_let_in()
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_is_append_only()")
    for name in INDEXES:
        op.drop_index(name, "keys")
    for column in reversed(_columns()):
        op.drop_column("keys", column.name)


def _revoke_what_would_be_let_in() -> None:
    """Admin keys, and keys that are disabled or have expired, would be ordinary good ones."""
    keys = sa.table(
        "keys",
        *(sa.column(name) for name in ("revoked", "role", "expires")),
        sa.column("is_disabled", sa.Boolean),
    )
    now = time.time()
    is_bad = sa.or_(keys.c.role.is_not(None), keys.c.is_disabled, keys.c.expires <= now)
    op.execute(keys.update().where(keys.c.revoked.is_(None), is_bad).values(revoked=now))


def _protect_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
    )


def _protect_on_sqlite() -> None:
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_no_{act.lower()} BEFORE {act} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        )


def _columns() -> tuple[sa.Column, ...]:
    return (
        sa.Column("owner", sa.String(200), nullable=True),
        sa.Column("tier", sa.String(200), nullable=True),
        sa.Column("limits", sa.Text, nullable=True),
        sa.Column("budget", sa.Text, nullable=True),
        sa.Column("routes", sa.Text, nullable=True),
        sa.Column("expires", sa.Float, nullable=True),
        sa.Column("tags", sa.Text, nullable=True),
        sa.Column("is_disabled", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("previous", sa.LargeBinary(32), nullable=True),
        sa.Column("previous_until", sa.Float, nullable=True),
        sa.Column("role", sa.String(16), nullable=True),
        sa.Column("changed", WHOLE, nullable=False, server_default="0"),
    )
