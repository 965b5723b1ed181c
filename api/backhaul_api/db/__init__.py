"""The database: tables, types, connections, migrations. SQL of a domain is in its `store`."""
