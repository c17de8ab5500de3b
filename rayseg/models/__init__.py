"""The networks. `zoo.py` lists them by name; nothing is imported here, so that `import rayseg.models` stays cheap."""
