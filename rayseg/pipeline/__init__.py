"""The main job: list -> plan -> (plan - ledger) -> fetch + decode -> predict -> encode -> write. `job.py` shows it on one page."""
