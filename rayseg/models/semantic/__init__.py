"""Semantic segmentation networks: one file per family with network, loss and named builders."""
