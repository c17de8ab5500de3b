"""What to type to ask the tables something: the lines shown in the report, and the same in the README."""

from __future__ import annotations

import os
import shlex

from rayseg.pipeline.storage import Store


def where(store: Store) -> str:
    """The output as the reader can name it from anywhere: an absolute path or a URL."""
    return os.path.abspath(store.root) if store.local else store.url.rstrip("/")


def sql(out: str) -> str:
    """DuckDB: objects by class."""
    quoted = out.replace("'", "''")
    return f"select label, count(*), avg(area_px)\nfrom '{quoted}/objects/*.parquet'\ngroup by label"


def pandas(out: str) -> str:
    """pandas: all objects, the ledger, and one mask as a numpy array."""
    return (
        "import pandas as pd\n"
        "from pycocotools import mask\n"
        "\n"
        f"objects = pd.read_parquet({out + '/objects'!r})\n"
        f"images = pd.read_parquet({out + '/images'!r})\n"
        "\n"
        "row = objects.iloc[0]\n"
        'rle = {"size": [row.rle_h, row.rle_w], "counts": row.rle_counts}\n'
        "pixels = mask.decode(rle)"
    )


def shell(out: str) -> str:
    """Commands of rayseg itself."""
    quoted = shlex.quote(out)
    return f"rayseg verify {quoted}\nrayseg retry {quoted}\nrayseg export-coco {quoted} results.json"


def geopandas(out: str) -> str:
    """GeoPandas: the ledger of scenes, and the objects of one of them as shapes in its reference system."""
    return (
        "import geopandas as gpd\n"
        "import pandas as pd\n"
        "\n"
        f"scenes = pd.read_parquet({out + '/images'!r})\n"
        f"objects = pd.read_parquet({out + '/objects'!r})\n"
        "\n"
        'scene = scenes[scenes.status != "failed"].iloc[0]\n'
        "found = objects[objects.unit_id == scene.unit_id]\n"
        "shapes = gpd.GeoSeries.from_wkb(found.geometry, crs=scene.crs)\n"
        "found = gpd.GeoDataFrame(found, geometry=shapes)"
    )


def scene_shell(out: str) -> str:
    """Commands of rayseg itself, for a job of scenes."""
    quoted = shlex.quote(out)
    return f"rayseg verify {quoted}\nrayseg retry {quoted}\nrayseg export-geo {quoted} objects.gpkg"
