"""Proof of a job of scenes from its files: every tile once, every scene once, and that they tell the same story.

Needs neither the extra `geo` nor the model nor Ray.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayseg.pipeline import ledger
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import Findings, merge_findings, verify


@dataclass(frozen=True)
class SceneFindings:
    """What was found: in the job of scenes, in that of its tiles, and between the two."""

    scenes: Findings
    tiles: Findings
    between: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return self.scenes.ok and self.tiles.ok and not self.between


def verify_scenes(store: Store, tiles: Store) -> SceneFindings:
    """Check both jobs and compare their sums.

    Raises:
        OutputError: one of the folders holds no job.
    """
    scenes, found = verify(store), verify(tiles)
    return SceneFindings(scenes, found, tuple(_between(store, scenes, found)))


def merged(found: SceneFindings) -> Findings:
    """All of it as one."""
    text = Findings(n_problems=len(found.between), problems=found.between)
    return merge_findings([found.scenes, found.tiles, text])


_COLUMNS = ["uri", "status", "tiles", "failed_tiles", "label_map"]


def _between(store: Store, scenes: Findings, tiles: Findings) -> list[str]:
    out = []
    planned = failed = 0
    for name in sorted(store.list("images")):
        if not name.endswith(".parquet") or name.startswith("."):
            continue
        try:
            table = pq.read_table(io.BytesIO(store.read(f"images/{name}")), columns=_COLUMNS)
        except (pa.ArrowException, FileNotFoundError, KeyError, ValueError):
            continue  # said by the check of the scenes
        planned += pc.sum(table["tiles"]).as_py() or 0
        failed += pc.sum(table["failed_tiles"]).as_py() or 0
        lost = [row for row in table.to_pylist() if row["label_map"] is not None and not store.exists(row["label_map"])]
        out += [f"{row['uri']}: its label map {row['label_map']} is gone. Run the same command again to write it" for row in lost]
    if scenes.ok and tiles.ok:
        if planned != tiles.planned:
            out.append(f"the scenes count {planned} tiles, tiles/plan has {tiles.planned}; restore the files, or start anew")
        if failed != tiles.failed:
            remedy = f"Run `rayseg retry {store.url}` to do them again"
            out.append(f"the scenes count {failed} failed tiles, tiles/images has {tiles.failed}. {remedy}")
    return out


def forget_failed(store: Store, tiles: Store) -> tuple[int, int]:
    """Take back scenes that failed or are incomplete, then tiles that failed, so that the next run does those again.

    Returns:
        How many scenes and how many tiles.
    """
    # Scenes first: should we be killed between, they are put together again from what is there.
    return ledger.forget_failed(store), ledger.forget_failed(tiles)
