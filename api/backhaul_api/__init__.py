"""The stateless Backhaul API: a Litestar app over SQLite or PostgreSQL."""
