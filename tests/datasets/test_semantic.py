"""Lists of images and masks: any name that can be written is read back, and a pair that cannot be used says why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.datasets.semantic import SUFFIXES, SemanticPairs, format_line, outside_classes, parse_line
from rayseg.errors import DatasetError

from .builders import labels, picture, write_image, write_pair

words = st.text("ab. -_é", min_size=1, max_size=8).map(str.strip).filter(bool)
names = st.builds(lambda word, suffix: f"d/{word}{suffix}", words, st.sampled_from((*SUFFIXES, ".JPG")))


@given(names, names)
def test_what_is_written_is_read_back(image, mask):
    pair = parse_line(format_line(image, mask), 1, "train.txt", ".")
    assert (pair.image, pair.mask) == (image, mask)


@pytest.mark.parametrize(
    "text, image, mask",
    [
        ("images/a.jpg annotations/a.png", "images/a.jpg", "annotations/a.png"),
        ("images/a b.jpg annotations/a b.png", "images/a b.jpg", "annotations/a b.png"),
        ("images/a.jpg   annotations/a.png", "images/a.jpg", "annotations/a.png"),
        ("my photos/a.JPEG\tmy masks/a.tif", "my photos/a.JPEG", "my masks/a.tif"),
        ("../train/a.jpg masks/a.png", "../train/a.jpg", "masks/a.png"),
    ],
)
def test_lines_are_cut_after_the_suffix_of_the_image(text, image, mask):
    pair = parse_line(text, 1, "train.txt", "/root")
    assert (pair.image, pair.mask) == (str(image).replace("../", "/") if image[0] == "." else f"/root/{image}", f"/root/{mask}")


@pytest.mark.parametrize(
    "text, message",
    [
        ("images/a.jpg", "line 7 does not name an image and a mask"),
        ("images/a.jpg masks/a", "does not name an image and a mask"),
        ("a.jpg b.png c.png", "can be cut in several ways"),
        ("a.jpg\tb.png\tc.png", "does not name an image and a mask"),
        ("a.jpg\t", "does not name an image and a mask"),
    ],
)
def test_a_line_that_cannot_be_cut_says_how_to_write_it(text, message):
    with pytest.raises(DatasetError, match=message):
        parse_line(text, 7, "train.txt", ".")


def test_samples_hold_the_image_and_its_labels(tmp_path):
    lines = [write_pair(tmp_path, name, labels(i), i) for i, name in enumerate(("a", "b c"))]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    found = SemanticPairs(tmp_path / "train.txt", tmp_path, num_classes=3)
    assert len(found) == 2
    for number, sample in enumerate(found):
        assert (sample.labels == labels(number)).all() and sample.labels.dtype == np.uint8
        assert sample.image.shape[:2] == sample.labels.shape
    assert found[1].name == "b c.jpg"


@pytest.mark.parametrize(
    "break_it, message",
    [
        (lambda root: (root / "images" / "a.jpg").unlink(), r"a\.jpg: named in line 1 of the list, but not there"),
        (lambda root: (root / "annotations" / "a.png").unlink(), r"a\.png: named in line 1"),
        (lambda root: (root / "images" / "a.jpg").write_bytes(b"no image"), r"a\.jpg: cannot be decoded"),
        (lambda root: (root / "annotations" / "a.png").write_bytes(b""), r"a\.png: no usable mask"),
        (lambda root: write_pair(root, "a", labels(classes=5)), r"holds the ids \[3, 4\]; there are 3 classes"),
        (
            lambda root: write_image(root / "images" / "a.jpg", height=20),
            r"has \[height, width\] \[24, 32\], its image .* \[20, 32\]",
        ),
    ],
)
def test_a_pair_that_cannot_be_used_says_why(tmp_path, break_it, message):
    (tmp_path / "train.txt").write_text(write_pair(tmp_path, "a", labels()))
    break_it(tmp_path)
    with pytest.raises(DatasetError, match=message):
        SemanticPairs(tmp_path / "train.txt", tmp_path, num_classes=3)[0]


@pytest.mark.parametrize("text, message", [("", "names no image"), ("\n \n", "names no image"), ("x y", "does not name")])
def test_a_list_without_pairs_is_refused(tmp_path, text, message):
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        SemanticPairs(tmp_path / "train.txt", tmp_path)


def test_255_is_never_outside_the_classes():
    assert outside_classes(np.array([[0, 1, 2, 255]], np.uint8), 2) == [2]
    assert outside_classes(np.array([[0, 254, 255, 256]], np.uint16), None) == [256]


def test_the_image_is_rgb(tmp_path):
    (tmp_path / "train.txt").write_text(write_pair(tmp_path, "a", labels()))
    write_image(tmp_path / "images" / "a.png", 5)
    (tmp_path / "train.txt").write_text("images/a.png annotations/a.png")
    assert (SemanticPairs(tmp_path / "train.txt", tmp_path)[0].image == picture(5)[..., ::-1]).all()


def test_the_real_lists_are_read(shared_dir):
    folder = shared_dir / "data" / "coco_ccby_panoptic_semantic" / "semantic_paddleseg"
    found = SemanticPairs(folder / "val.txt", folder, num_classes=129)
    assert len(found) == 27
    assert all(sample.labels.shape == sample.image.shape[:2] for sample in found)
