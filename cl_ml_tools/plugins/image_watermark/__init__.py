"""Put a text or a picture on pictures."""
