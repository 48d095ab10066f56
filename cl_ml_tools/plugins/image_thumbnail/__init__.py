"""Make small versions of pictures."""
