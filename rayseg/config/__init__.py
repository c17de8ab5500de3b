"""Settings of every job as frozen dataclasses, and the one way to read them from YAML and `-o key=value`."""
