"""Classes are paired by name, and a pairing that cannot be meant is refused."""

from __future__ import annotations

import pytest

from rayseg.errors import DatasetError
from rayseg.evaluation.classes import match_classes


def test_equal_names_belong_together_whatever_their_order_and_ids():
    found = match_classes(["dog", "cat", "cow"], {7: "cat", 3: "dog", 1: "horse"})
    assert found.category_of == (3, 7, None)
    assert found.unknown == ("cow",) and found.lacking == ("horse",)


def test_other_names_can_be_told():
    found = match_classes(["hound", "cat"], {1: "cat", 2: "dog"}, rename={"hound": "dog"})
    assert found.category_of == (2, 1) and found.unknown == found.lacking == ()


def test_made_up_labels_stand_for_the_classes_in_order():
    assert match_classes(["class_0", "class_1"], {9: "a", 4: "b"}).category_of == (9, 4)
    assert match_classes(["class_0", "class_1"], {9: "class_1", 4: "class_0"}).category_of == (4, 9)
    with pytest.raises(DatasetError, match="the model has 2 classes without names, the truth 3: a, b, c"):
        match_classes(["class_0", "class_1"], {1: "a", 2: "b", 3: "c"})


@pytest.mark.parametrize(
    ("labels", "names", "rename", "message"),
    [
        (["a"], {1: "b"}, None, "the model finds a, the truth has b: no common class"),
        (["a", "a"], {1: "a"}, None, "the model has two classes named a"),
        (["a"], {1: "a", 2: "a"}, None, "the truth has two classes named a"),
        (["a"], {1: "b"}, {"x": "b"}, "rename 'x' to 'b': the model has no such class; it has a"),
        (["a"], {1: "b"}, {"a": "x"}, "rename 'a' to 'x': the truth has no such class; it has b"),
    ],
)
def test_what_cannot_be_paired_is_refused(labels, names, rename, message):
    with pytest.raises(DatasetError, match=message):
        match_classes(labels, names, rename=rename)
