"""Put many pictures on one sheet."""
