"""A run that tries to break every promise at once, and counts what broke: ``python -m benchmarks.chaos``."""
