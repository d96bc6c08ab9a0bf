"""Alembic's environment script: runs the migrations on the connection passed by `upgrade`."""

from alembic import context

from legato.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
