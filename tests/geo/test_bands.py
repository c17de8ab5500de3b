"""Which bands become red, green and blue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import ConfigError, UnsupportedImage
from rayseg.geo.bands import Bands, choose_bands
from rayseg.geo.ground import Ground
from rayseg.geo.scene import Band, Part, Scene
from rayseg.geometry import Size, Window


def scene_of(*bands: Band | str) -> Scene:
    """A scene with bands of these colours."""
    made = tuple(b if isinstance(b, Band) else Band("uint16", 16, b) for b in bands)
    size = Size(4, 4)
    return Scene("s.tif", size, made, Ground(), "GTiff", size, False, "", False, (Part("s.tif", Window.of(size)),))


@given(st.integers(1, 12), st.data())
def test_chosen_numbers_are_taken_as_they_are(count, data):
    scene = scene_of(*["undefined"] * count)
    numbers = data.draw(
        st.lists(st.integers(1, count), min_size=3, max_size=3) | st.lists(st.integers(1, count), min_size=1, max_size=1)
    )
    assert choose_bands(scene, numbers) == choose_bands(scene, ", ".join(map(str, numbers))) == Bands(tuple(numbers))


@given(st.permutations(["red", "green", "blue", "alpha", "undefined"]))
def test_bands_marked_as_colours_are_taken_in_any_order(colours):
    wanted = tuple(colours.index(c) + 1 for c in ("red", "green", "blue"))
    assert choose_bands(scene_of(*colours)) == Bands(wanted)
    named = [Band("uint16", 16, "undefined", name.title()) for name in colours]
    assert choose_bands(scene_of(*named)) == Bands(wanted)


@pytest.mark.parametrize(
    "colours, wanted",
    [
        (["gray"], Bands((1,))),
        (["gray", "alpha"], Bands((1,))),
        (["gray", "undefined", "undefined"], Bands((1, 2, 3))),
        (["gray", "undefined", "undefined", "alpha"], Bands((1, 2, 3))),
        (["palette"], Bands((1,), palette=True)),
    ],
)
def test_the_default_for_few_bands(colours, wanted):
    assert choose_bands(scene_of(*colours)) == wanted


@pytest.mark.parametrize(
    "colours", [["gray", "undefined"], ["gray"] * 4, ["gray"] * 12, ["cyan", "magenta", "yellow", "black"], ["alpha"]]
)
def test_bands_without_a_default_must_be_chosen_from_a_list_of_them(colours):
    with pytest.raises(UnsupportedImage, match=f"s.tif: which .* 1 \\({colours[0]}, uint16\\).*--bands, such as 3,2,1"):
        choose_bands(scene_of(*colours))


NIR = (
    Band("uint16", 16, "blue", "B2"),
    Band("uint16", 16, "green", "B3"),
    Band("uint16", 16, "red", "B4"),
    Band("uint16", 16, "undefined", "NIR"),
)


def test_bands_are_chosen_by_name_and_by_colour():
    assert choose_bands(scene_of(*NIR), "nir,red,B3") == Bands((4, 3, 2))
    assert choose_bands(scene_of("palette"), "1") == Bands((1,)), "the indices themselves"


@pytest.mark.parametrize(
    "wanted, message",
    [
        ("5", "'5' is no band of s.tif, which has 1 B2 .blue, uint16., 2 B3"),
        ("0", "'0' is no band"),
        ("swir", "'swir' is no band"),
        ("", "'' is no band"),
        ("1,2", "--bands 1,2 names 2 bands; name one, or three"),
        ("1,2,3,4", "names 4 bands"),
    ],
)
def test_a_wrong_choice_names_the_bands_there_are(wanted, message):
    with pytest.raises(ConfigError, match=message):
        choose_bands(scene_of(*NIR), wanted)


def test_a_name_that_two_bands_bear_is_refused():
    with pytest.raises(ConfigError, match="'gray' is the name of bands \\[1, 2\\]"):
        choose_bands(scene_of("gray", "gray"), "gray")


@pytest.mark.parametrize("types", [("uint8", "uint16", "uint8"), ("complex64",) * 3, ("complex_int16",) * 3])
def test_types_that_make_no_colours_are_refused(types):
    with pytest.raises(UnsupportedImage, match="make no colours"):
        choose_bands(scene_of(*(Band(t, 8, "gray") for t in types)))
