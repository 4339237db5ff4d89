"""Keep one module a schema revision, oldest first."""
