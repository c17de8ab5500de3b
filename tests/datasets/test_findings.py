"""Findings are all counted, few are kept, and which does not depend on the order they come in."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from rayseg.datasets.findings import ERROR, WARNING, Findings, error, warning

found = st.builds(
    lambda bad, kind, file: (error if bad else warning)(f"{'e' if bad else 'w'}{kind}", file, "", "x", "y"),
    st.booleans(), st.integers(0, 2), st.text("abc", min_size=1, max_size=3),
)  # fmt: skip


@given(st.lists(st.lists(found, max_size=8), max_size=6), st.integers(1, 4))
def test_parts_add_up_to_the_whole_in_any_order(parts, keep):
    whole = Findings.of([one for part in parts for one in part], keep=keep)
    for order in (parts, parts[::-1]):
        total = Findings(keep)
        for part in order:
            total.add(pickle.loads(pickle.dumps(Findings.of(part, keep=keep))))
        assert total.rows() == whole.rows() and total.counts == whole.counts
    assert whole.errors + whole.warnings == sum(map(len, parts))
    assert all(len(kept) <= 2 * keep for kept in whole.kept.values())


def test_the_summary_has_the_most_frequent_first():
    total = Findings.of(
        [error("rare", "a", "", "p", "r"), *[error("often", f"{i}", "line 1", "p", "r") for i in range(5)]], keep=2
    )
    total.extend([warning("odd", "b", "", "p", "r")])
    assert [(row["kind"], row["count"]) for row in total.summary(ERROR)] == [("often", 5), ("rare", 1)]
    assert total.summary(ERROR)[0]["examples"] == ["0: line 1: p; r", "1: line 1: p; r"]
    assert total.summary(WARNING) == [{"kind": "odd", "count": 1, "examples": ["b: p; r"]}]
