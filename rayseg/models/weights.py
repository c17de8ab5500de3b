"""Parameters to and from `.pdparams` files, without running anything a file brings along.

A `.pdparams` is a pickle, and a pickle may call any function it names. Ours is read by an unpickler that knows numpy
arrays, dicts, lists and tuples and nothing else: the first other name is refused before it is even looked up. What is
written can be read by `paddle.load` too. Getting files from the web is download.py's. Inference directories
(`.pdiparams`) are no pickles and not our concern.
"""

from __future__ import annotations

import logging
import os
import pickle
import uuid
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from paddle import nn

from rayseg.errors import WeightsError
from rayseg.models.download import cached, is_url
from rayseg.models.zoo import find_model

log = logging.getLogger(__name__)

PADDLE_NAME_TABLE = "StructuredToParameterName@@"
LFS_HEADER = b"version https://git-lfs"
SHOWN_NAMES = 5
_BACKBONE = "backbone."
_CLASSIFIERS = ("fc.", "out.", "last_conv", "head", "classifier", "pred.")
"""What networks that classify ImageNet end in."""
_HEAD_SIZES = ((1, 0), (1, 1), (4, 0))
"""(factor, offset) of the class count along the axis of a head: classes, classes and background, a box for each."""


@dataclass(frozen=True)
class Loaded:
    """What loading did, by name.

    Attributes:
        fresh_heads: left as they were, because the file was made for another number of classes.
        outside_backbone: left as they were, because the file holds a backbone alone.
        missing, misshaped: left as they were, because that was allowed.
        surplus: in the file, and of no use.
    """

    fresh_heads: tuple[str, ...] = ()
    outside_backbone: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()

    @property
    def unset(self) -> tuple[str, ...]:
        """Every parameter that kept its value."""
        return (*self.fresh_heads, *self.outside_backbone, *self.missing, *self.misshaped)


def load_weights(model: nn.Layer, source: str | os.PathLike[str], *, allow_misfits: bool = False) -> Loaded:
    """Set the parameters and buffers of a model from a file, a URL, or the official weights of a model of the zoo.

    The file may hold the whole network, or a backbone as it was pretrained on ImageNet: without the `backbone.` that
    our names begin with, and with a classifier that is ignored. Where the file was made for another number of classes,
    the layers whose shape follows from it are left as they are. Any other difference is refused, and nothing is set
    unless everything is.

    Args:
        model: whose `state_dict` names what is wanted.
        source: a `.pdparams` file as `save_weights` and `paddle.save` write it, a URL of one, or a name of the zoo.
        allow_misfits: leave parameters as they are that are missing from the file or have another shape there, and
            ignore surplus ones. At least one must fit.

    Returns:
        What was left as it was. The log says so, too.

    Raises:
        WeightsError: the file is missing, cut short, not plain arrays, cannot be downloaded, or does not fit.
        ModelError: neither a file nor a name of the zoo.
    """
    path = _local(source)
    arrays = read_pdparams(path)
    wanted = model.state_dict()
    arrays, backbone_only = _with_our_names(arrays, list(wanted))
    arrays = _with_both_names(arrays, wanted)
    missing = [name for name in wanted if name not in arrays]
    surplus = [name for name in arrays if name not in wanted]
    misshaped = [name for name, value in wanted.items() if name in arrays and tuple(value.shape) != arrays[name].shape]
    outside = [name for name in missing if backbone_only and not name.startswith(_BACKBONE)]
    missing = [name for name in missing if name not in set(outside)]
    if backbone_only:
        surplus = [name for name in surplus if not name.removeprefix(_BACKBONE).startswith(_CLASSIFIERS)]
    heads = _of_another_class_count(model, misshaped, wanted, arrays)
    misshaped = [name for name in misshaped if name not in set(heads)]
    loaded = Loaded(tuple(heads), tuple(outside), tuple(missing), tuple(misshaped), tuple(surplus))
    if len(loaded.unset) == len(wanted):
        raise WeightsError(f"{path}: none of its {len(arrays)} arrays fits the model; it belongs to another network.")
    if not allow_misfits and (missing or surplus or misshaped):
        shapes = [f"{n} is {arrays[n].shape}, wanted {tuple(wanted[n].shape)}" for n in misshaped]
        problems = [("missing", missing), ("surplus", surplus), ("of another shape", shapes)]
        listed = "; ".join(f"{len(names)} {what}: {_shorten(names)}" for what, names in problems if names)
        raise WeightsError(f"{path} does not fit the model: {listed}. Is it the right model?")
    unset = set(loaded.unset)
    for name, value in wanted.items():
        if name not in unset:
            value.set_value(arrays[name].astype(_numpy_dtype(value), copy=False))
    _tell(path, loaded)
    return loaded


def _local(source: str | os.PathLike[str]) -> Path:
    """The file that a path, a URL or a name stands for."""
    text = os.fspath(source)
    if is_url(text):
        return cached(text)
    if isinstance(source, str) and not Path(text).suffix and os.sep not in text and not Path(text).exists():
        row = find_model(text)
        if row.weights_url is None:
            raise WeightsError(f"{text}: no weights of this model were published; give a .pdparams file or another model")
        return cached(row.weights_url)
    return Path(text)


def _with_our_names(arrays: dict[str, np.ndarray], wanted: list[str]) -> tuple[dict[str, np.ndarray], bool]:
    """The arrays of a file under the model's names, and whether it holds a backbone alone.

    A name without its prefix belongs to the one parameter that ends in it, and of several to the longest common part:
    so `res5.res5a...` finds the head's stage in a network whose backbone ends at the fourth.
    """
    whole = any(name.startswith(_BACKBONE) for name in arrays) or not any(name.startswith(_BACKBONE) for name in wanted)
    if whole:
        return arrays, False
    by_ending: dict[str, str] = {}
    for name in wanted:
        parts = name.split(".")
        for start in range(1, len(parts)):
            by_ending.setdefault(".".join(parts[start:]), name)
    named = {}
    for name, array in arrays.items():
        ours = _BACKBONE + name
        named[ours if ours in wanted else by_ending.get(name, ours)] = array
    return named, True


def _with_both_names(arrays: dict[str, np.ndarray], wanted: dict[str, Any]) -> dict[str, np.ndarray]:
    """A tensor the model has under two names needs only one of them in the file."""
    names_of: dict[int, list[str]] = {}
    for name, value in wanted.items():
        names_of.setdefault(id(value), []).append(name)
    out = dict(arrays)
    for names in names_of.values():
        known = [name for name in names if name in arrays]
        if known:
            out |= {name: arrays[known[0]] for name in names if name not in arrays}
    return out


def _of_another_class_count(
    model: nn.Layer, misshaped: list[str], wanted: dict[str, Any], arrays: dict[str, np.ndarray]
) -> list[str]:
    """Those whose shapes are explained by one other number of classes: an axis of C, C + 1 or 4 C, the rest equal.

    The number that explains most of them is taken.
    """
    ours = getattr(model, "num_classes", None)
    if not isinstance(ours, int):
        return []
    candidates = {
        name: {
            theirs
            for ours_axis, their_axis, factor, offset in _differing_axes(tuple(wanted[name].shape), arrays[name].shape)
            if ours_axis == factor * ours + offset and (theirs := (their_axis - offset) / factor) >= 1 and theirs % 1 == 0
        }
        for name in misshaped
    }
    votes = Counter(theirs for found in candidates.values() for theirs in found)
    if not votes:
        return []
    (theirs, _), *_ = votes.most_common(1)
    return [name for name, found in candidates.items() if theirs in found]


def _differing_axes(ours: tuple[int, ...], theirs: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """(our length, their length, factor, offset) of the only axis that differs, for every rule heads follow."""
    if len(ours) != len(theirs):
        return []
    differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    return [(*differing[0], factor, offset) for factor, offset in _HEAD_SIZES] if len(differing) == 1 else []


def _tell(path: Path, loaded: Loaded) -> None:
    if loaded.fresh_heads:
        log.warning("%s: made for another number of classes; left fresh: %s", path, ", ".join(loaded.fresh_heads))
    if loaded.outside_backbone:
        log.info("%s: a backbone; %d parameters outside it left fresh", path, len(loaded.outside_backbone))
    for what in ("missing", "misshaped", "surplus"):
        if names := getattr(loaded, what):
            log.warning("%s: %d %s, as allowed: %s", path, len(names), what, _shorten(list(names)))


def save_weights(model: nn.Layer, path: str | os.PathLike[str]) -> None:
    """Write the parameters and buffers of a model; see `save_arrays`."""
    save_arrays({name: value.numpy() for name, value in model.state_dict().items()}, path)


def save_arrays(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays by name as a `.pdparams`, all or nothing: the file's name appears only when it is complete.

    Raises:
        OSError: the folder is missing, read-only or full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # with the rights any new file has
    try:
        with temporary.open("xb") as file:
            pickle.dump(dict(arrays), file, protocol=4)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_pdparams(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a `.pdparams` file by name, of numbers only.

    Raises:
        WeightsError: the file is missing, cut short, or holds anything but a dict of numpy arrays.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(LFS_HEADER)) == LFS_HEADER:
                raise WeightsError(f"{path} is a git-lfs pointer, not the weights. Run `git lfs pull` and try again.")
            file.seek(0)
            content = _ArraysOnly(file).load()
    except WeightsError as error:
        raise WeightsError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}).") from error
    except Exception as error:  # Any bytes may be in the file, and unpickling answers with almost any exception.
        raise WeightsError(
            f"{path}: not a readable .pdparams file ({type(error).__name__}: {error}). "
            "It was probably cut short; copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a dict of arrays by name.")
    return {name: _plain_array(path, name, value) for name, value in content.items() if name != PADDLE_NAME_TABLE}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build numpy arrays and plain containers, and cannot name anything else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise WeightsError(
                f"refused, because it asks for {module}.{name}. A weights file needs numpy arrays only; "
                "one that names other code may be harmful. Do not load it with pickle or paddle.load either."
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        raise WeightsError("refused, because it refers to objects outside the file.")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """What numpy's own `_reconstruct` does for a plain array; its contents come after, by `__setstate__`."""
    if kind is not np.ndarray:
        raise WeightsError(f"refused, because it holds a {kind!r} where an array belongs.")
    return np.ndarray(shape, code.decode("ascii"))


def _array_from_buffer(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    """An array of pickle protocol 5."""
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in pickle protocol 2."""
    if encoding != "latin1":
        raise WeightsError(f"refused, because it asks for the text encoding {encoding!r}.")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How Python 3 writes the bytes of an empty array in pickle protocol 2."""
    return b""


_NUMPY_CORES = ("numpy.core", "numpy._core")
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    # paddle.save writes a tensor as tuple((name, array)).
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _no_bytes,
    **{(f"{core}.multiarray", "_reconstruct"): _empty_array for core in _NUMPY_CORES},
    **{(f"{core}.numeric", "_frombuffer"): _array_from_buffer for core in _NUMPY_CORES},
}


def _plain_array(path: str | os.PathLike[str], name: Any, value: Any) -> np.ndarray:
    """The array of one entry, checked to hold numbers."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise WeightsError(f"{path}: entry {name!r} is a {found}, not an array of numbers. Is it a training checkpoint?")
    return value


def _numpy_dtype(value: Any) -> np.dtype:
    """Of a Paddle tensor."""
    return np.dtype(str(value.dtype).removeprefix("paddle."))


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
