"""What is kept, and where: the only rooms with a path on disk or a connection to Redis."""
