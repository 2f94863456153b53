"""Alembic's entry: it is always given an open connection by `Store.migrate`."""

from alembic import context

from pipeline.store.tables import metadata


def run() -> None:
    """Bring the connection's schema to the wanted revision."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
