"""The database: the only room that knows SQLAlchemy. PostgreSQL and SQLite share one schema and one set of statements."""
