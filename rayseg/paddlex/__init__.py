"""PaddleX's Python interface over our predictors: the same calls, inputs, result keys and file names, its faults mended.

Whoever has a PaddleX script changes the import and keeps the rest. Archives are `rayseg segment`'s: this package is one
process, and a result is a Python object.
"""
