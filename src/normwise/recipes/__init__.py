"""Whole applications on real data, each a start to copy from."""
