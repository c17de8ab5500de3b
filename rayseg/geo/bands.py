"""Which bands of a scene become red, green and blue. What their values become is in `scaling.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayseg.errors import ConfigError, UnsupportedImage
from rayseg.geo.scene import Band, Scene

_RGB = ("red", "green", "blue")
_INKS = {"cyan", "magenta", "yellow", "black"}


@dataclass(frozen=True)
class Bands:
    """Bands to read.

    Attributes:
        numbers: from 1: one band, shown as grey, or those of red, green and blue.
        palette: look the values up in the file's colour table.
    """

    numbers: tuple[int, ...]
    palette: bool = False


def choose_bands(scene: Scene, wanted: str | Sequence[int | str] | None = None) -> Bands:
    """The bands of a scene that a network is to see.

    By default, in this order: a palette is looked up; bands marked, else named, red, green and blue are taken as such,
    whatever their order; one band (besides alpha) is shown as grey; three are red, green and blue in the order of the file.
    Any other number of bands must be chosen from. A choice reads what is stored: band 1 of a palette is its indices.

    Args:
        scene: any.
        wanted: "4,3,2", a list, or None for the default: numbers from 1 or names, one for grey or three for red, green, blue.

    Raises:
        ConfigError: a band there is not, or neither one nor three of them.
        UnsupportedImage: no default fits, or the bands hold complex numbers or differ in type.
    """
    found = _default(scene) if wanted is None else _chosen(scene, wanted)
    types = {scene.bands[n - 1].dtype for n in found.numbers}
    if len(types) > 1 or "complex" in next(iter(types)):
        raise UnsupportedImage(
            f"{scene.uri}: bands of {' and '.join(sorted(types))} make no colours; choose others with --bands: {_list(scene)}"
        )
    return found


def _chosen(scene: Scene, wanted: str | Sequence[int | str]) -> Bands:
    words = [w.strip() for w in wanted.split(",")] if isinstance(wanted, str) else [str(w).strip() for w in wanted]
    if len(words) not in (1, 3):
        raise ConfigError(f"--bands {','.join(words)} names {len(words)} bands; name one, or three for red, green, blue")
    return Bands(tuple(_number(scene, word) for word in words))


def _number(scene: Scene, word: str) -> int:
    if word.isdecimal() and 1 <= int(word) <= len(scene.bands):
        return int(word)
    hits = [i for i, band in enumerate(scene.bands, 1) if word and word.lower() == band.name.lower()]
    hits = hits or [i for i, band in enumerate(scene.bands, 1) if word and word.lower() == band.colour]
    if len(hits) != 1:
        several = f"is the name of bands {hits}" if hits else "is no band"
        raise ConfigError(f"--bands {word!r} {several} of {scene.uri}, which has {_list(scene)}")
    return hits[0]


def _default(scene: Scene) -> Bands:
    colours = [band.colour for band in scene.bands]
    if colours == ["palette"]:
        return Bands((1,), palette=True)
    for words in (colours, [band.name.lower() for band in scene.bands]):
        if all(words.count(colour) == 1 for colour in _RGB):
            return Bands(tuple(words.index(colour) + 1 for colour in _RGB))
    data = [i for i, colour in enumerate(colours, 1) if colour != "alpha"]
    if not _INKS.intersection(colours):
        if len(data) == 1:
            return Bands((data[0],))
        if len(data) == 3:
            return Bands(tuple(data))
    raise UnsupportedImage(
        f"{scene.uri}: which of its bands are red, green and blue is not said: {_list(scene)}. "
        "Choose one or three with --bands, such as 3,2,1"
    )


def _list(scene: Scene) -> str:
    def line(number: int, band: Band) -> str:
        return " ".join([str(number), *([band.name] if band.name else []), f"({band.colour}, {band.dtype})"])

    return ", ".join(line(i, band) for i, band in enumerate(scene.bands, 1))
