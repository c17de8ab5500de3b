"""Searching settings on a cluster with Ray Tune; `search.py` has the one call."""
