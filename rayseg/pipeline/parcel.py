"""How a chunk of work travels between stages: one Arrow row, its arrays side by side in one buffer, no copy on arrival.

A chunk is the unit of commit, so it must never be split or joined on the way; one row of one large value cannot be. Objects are
pickled with their arrays out of band (PEP 574). Both ends are our own processes: nothing from users is unpickled here.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

_ALIGN = 64
SCHEMA = pa.schema(
    [("chunk", pa.string()), ("head", pa.large_binary()), ("spans", pa.list_(pa.int64())), ("body", pa.large_binary())]
)


def pack(chunk: str, content: Any) -> pa.Table:
    """One row that holds `content`; arrays inside it are copied once, into one aligned buffer."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    views = [np.frombuffer(b.raw(), dtype=np.uint8) for b in buffers]
    spans, total = [], 0
    for view in views:
        spans += [total, view.size]
        total += -(-view.size // _ALIGN) * _ALIGN
    body = np.empty(total, dtype=np.uint8)
    for i, view in enumerate(views):
        body[spans[2 * i] : spans[2 * i] + view.size] = view
    offsets = pa.py_buffer(np.asarray([0, total], dtype=np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(body)])
    return pa.table(
        [pa.array([chunk]), pa.array([head], pa.large_binary()), pa.array([spans], pa.list_(pa.int64())), column],
        schema=SCHEMA,
    )


def unpack(table: pa.Table) -> Iterator[tuple[str, Any]]:
    """(chunk, content) of each row. Arrays are read-only views of the table's memory and keep it alive."""
    for batch in table.to_batches():
        for row in range(batch.num_rows):
            body = np.frombuffer(_value(batch.column("body"), row), dtype=np.uint8)
            spans = batch.column("spans")[row].as_py()
            views = [memoryview(body[s : s + n].data).toreadonly() for s, n in zip(spans[0::2], spans[1::2], strict=True)]
            yield (
                batch.column("chunk")[row].as_py(),
                pickle.loads(  # noqa: S301 - written by `pack` in another process of this job
                    _value(batch.column("head"), row), buffers=views
                ),
            )


def _value(column: pa.LargeBinaryArray, row: int) -> pa.Buffer:
    """The memory of one value. (`column[row].as_buffer()` would copy it.)"""
    _, offsets, data = column.buffers()
    edges = np.frombuffer(offsets, dtype=np.int64)[column.offset + row :][:2]
    return data.slice(edges[0], edges[1] - edges[0]) if data is not None else pa.py_buffer(b"")
