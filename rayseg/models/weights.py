"""Parameters to and from `.pdparams` files, without running anything a file brings along.

A `.pdparams` is a pickle, and a pickle may call any function it names. Ours is read by an unpickler that knows numpy
arrays, dicts, lists and tuples and nothing else: the first other name is refused before it is even looked up. What is
written can be read by `paddle.load` too. Inference directories (`.pdiparams`) are no pickles and not our concern.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from paddle import nn

from rayseg.errors import WeightsError

PADDLE_NAME_TABLE = "StructuredToParameterName@@"
LFS_HEADER = b"version https://git-lfs"
SHOWN_NAMES = 5


def load_weights(model: nn.Layer, path: str | os.PathLike[str], *, skip_mismatched: bool = False) -> list[str]:
    """Set the parameters and buffers of a model from a file.

    Nothing is set unless everything fits.

    Args:
        model: whose `state_dict` names what is wanted.
        path: a `.pdparams` file: a dict of numpy arrays by name, as `save_weights` and `paddle.save` write it.
        skip_mismatched: leave parameters as they are that are missing from the file or have another shape there, and
            ignore surplus ones, for fine-tuning with another number of classes. At least one must fit.

    Returns:
        Names of the parameters left as they were; empty unless `skip_mismatched`.

    Raises:
        WeightsError: the file is missing, cut short, not plain arrays, or does not fit the model.
    """
    arrays = read_pdparams(path)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in arrays]
    surplus = [name for name in arrays if name not in wanted]
    misshaped = [name for name, value in wanted.items() if name in arrays and tuple(value.shape) != arrays[name].shape]
    left = missing + misshaped
    if skip_mismatched and len(left) == len(wanted):
        raise WeightsError(f"{path}: none of its {len(arrays)} arrays fits the model; it belongs to another network.")
    if not skip_mismatched and (left or surplus):
        shapes = [f"{n} is {arrays[n].shape}, wanted {tuple(wanted[n].shape)}" for n in misshaped]
        problems = [("missing", missing), ("surplus", surplus), ("of another shape", shapes)]
        listed = "; ".join(f"{len(names)} {what}: {_shorten(names)}" for what, names in problems if names)
        raise WeightsError(f"{path} does not fit the model: {listed}. Is it the right model and number of classes?")
    unset = set(left)
    for name, value in wanted.items():
        if name not in unset:
            value.set_value(arrays[name].astype(_numpy_dtype(value), copy=False))
    return left


def save_weights(model: nn.Layer, path: str | os.PathLike[str]) -> None:
    """Write the parameters and buffers of a model, all or nothing: the name appears only when the file is complete.

    Raises:
        OSError: the folder is missing, read-only or full.
    """
    path = Path(path)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            pickle.dump(arrays, file, protocol=4)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
