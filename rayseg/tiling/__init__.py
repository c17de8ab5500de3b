"""Scenes in tiles: how they are cut, and how what was seen in the tiles becomes objects and maps of the whole scene.

Reading pixels, predicting, coordinates on the ground and files are left to others.
"""
