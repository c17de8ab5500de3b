"""Scores of finished predictions, returned as values: mask AP for instances, mean IoU for class maps.

Nothing here runs a network or reads a file; what is compared comes in as arguments.
"""
