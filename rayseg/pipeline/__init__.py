"""The main job: list -> plan -> (plan - ledger) -> fetch + decode -> predict -> encode -> write; see `job.py`."""
