"""Jobs of scenes: rasters of any size, predicted tile by tile and put together, each tile and each scene exactly once.

    OUT/job.json       what was asked
    OUT/plan           one unit a scene; OUT/scenes/ what is known of each: bands, place on the ground, tiles
    OUT/tiles/         a job of its own, whose units are tiles: job.json, plan/, images/ (ledger), objects/ (fragments)
    OUT/images         the ledger of scenes, OUT/objects their objects as GeoParquet, OUT/label_maps their label maps

`job.py` has it on one page. `planning.py` looks at scenes and cuts them, `tiles.py` is what is done to a tile before and
after the network, `instances.py` and `label_maps.py` put scenes together, `stitch.py` runs that on the cluster, `check.py`
proves the result; `overview.py` draws a scene small for the report, `export.py` writes objects for other tools.
Most of it needs the extra `geo`; `check.py` does not.
"""
