"""Compute fingerprints by which pictures are found again."""
