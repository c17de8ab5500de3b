"""Which class of a model is which of the truth: by name, never by number where both have names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayseg.errors import DatasetError
from rayseg.metrics.coco_rows import Id

_MADE_UP = re.compile(r"class_\d+")


@dataclass(frozen=True)
class ClassMap:
    """Classes of a model and of the truth.

    Attributes:
        category_of: category id of each class of the model; None for one that the truth does not have.
        names: category id -> name, all of the truth.
        unknown: labels of the model that the truth does not have; their objects are not scored.
        lacking: names of the truth that the model does not have; their objects are never found.
    """

    category_of: tuple[Id | None, ...]
    names: Mapping[Id, str]
    unknown: tuple[str, ...]
    lacking: tuple[str, ...]


def match_classes(labels: Sequence[str], names: Mapping[Id, str], *, rename: Mapping[str, str] | None = None) -> ClassMap:
    """Pair classes with one name. Made-up labels (class_0, class_1, ...) stand for the truth's classes in their order.

    Args:
        labels: of the model, by class id.
        names: category id -> name.
        rename: label of the model -> name in the truth, where they differ.

    Raises:
        DatasetError: a name is there twice, `rename` names nothing, or no class is common.
    """
    rename = dict(rename or {})
    for old, new in rename.items():
        if old not in labels or new not in names.values():
            known, where = (labels, "the model") if old not in labels else (names.values(), "the truth")
            raise DatasetError(f"rename {old!r} to {new!r}: {where} has no such class; it has {_listed(known)}")
    wanted = [rename.get(label, label) for label in labels]
    if all(_MADE_UP.fullmatch(label) for label in wanted) and not set(wanted) & set(names.values()):
        if len(wanted) != len(names):
            raise DatasetError(
                f"the model has {len(wanted)} classes without names, the truth {len(names)}: {_listed(names.values())}"
            )
        return ClassMap(tuple(names), dict(names), (), ())
    for found, where in ((wanted, "the model"), (list(names.values()), "the truth")):
        twice = sorted({name for name in found if found.count(name) > 1})
        if twice:
            raise DatasetError(f"{where} has two classes named {', '.join(twice)}; give each its own name")
    id_of = {name: category for category, name in names.items()}
    category_of = tuple(id_of.get(name) for name in wanted)
    if all(category is None for category in category_of):
        raise DatasetError(
            f"the model finds {_listed(wanted)}, the truth has {_listed(names.values())}: no common class. "
            "Is it the truth of these images? If only the names differ, rename them."
        )
    unknown = tuple(name for name, category in zip(wanted, category_of, strict=True) if category is None)
    return ClassMap(category_of, dict(names), unknown, tuple(name for name in names.values() if name not in wanted))


def _listed(names: object) -> str:
    found = [str(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
