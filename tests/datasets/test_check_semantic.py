"""Every fault planted in a semantic set is found, under its own name; good masks, also of many classes, have none."""

from __future__ import annotations

import io
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from rayseg.datasets.check_semantic import check_pair, index_list, judge_ids, looks_resampled
from rayseg.datasets.files import read_local
from rayseg.datasets.index_mask import read_index_mask
from rayseg.images import decode

from .builders import labels, write_image, write_pair

FILES = {"train": "train.txt", "val": "val.txt"}


def jpeg(mask: np.ndarray, quality: int = 90) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "JPEG", quality=quality)
    return out.getvalue()


def png(mask: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", mask)[1])


def look(root, mask, *, num_classes=3):
    (root / "train.txt").write_text(write_pair(root, "a b", mask))
    (pair,) = index_list(str(root / "train.txt"), str(root)).pairs
    report = check_pair(pair, "train.txt", num_classes=num_classes, read=read_local, decode=decode)
    for one in report.findings:
        assert one.problem and one.remedy and "line 1 of train.txt" in one.where
    return report


def test_a_good_pair_has_no_findings_and_is_counted(tmp_path):
    mask = labels()
    mask[:4] = 255
    report = look(tmp_path, mask)
    assert report.findings == []
    assert report.pixels == Counter(mask[mask != 255].tolist()) and report.ignored == 4 * 32
    assert (report.labels == mask).all() and report.image.shape == (24, 32, 3)


@pytest.mark.parametrize(
    "mask, kind",
    [
        (jpeg(labels()), "lossy-mask"),
        (png(np.zeros((24, 32, 3), np.uint8)), "colour-mask"),
        (labels(classes=5), "ids-outside-classes"),
        (png(labels().astype(np.uint16) + 300), "ids-outside-classes"),
        (b"no image", "unreadable-mask"),
        (png(labels())[:-20], "unreadable-mask"),
        (png(np.zeros((20, 32), np.uint8)), "size-mismatch"),
        (np.full((24, 32), 255, np.uint8), "mask-all-ignored"),
    ],
)
def test_a_fault_of_a_mask_is_found(tmp_path, mask, kind):
    assert [one.kind for one in look(tmp_path, mask).findings] == [kind]


def test_without_a_number_of_classes_only_ids_above_255_are_outside(tmp_path):
    assert (
        look(
            tmp_path, png(np.kron(np.arange(12).reshape(3, 4) * 20, np.ones((8, 8))).astype(np.uint8)), num_classes=None
        ).findings
        == []
    )
    found = look(tmp_path, png(labels().astype(np.uint16) + 300), num_classes=None).findings
    assert [one.kind for one in found] == ["ids-outside-classes"]


def test_missing_and_broken_files_are_found(tmp_path):
    (tmp_path / "train.txt").write_text(write_pair(tmp_path, "a", labels()))
    (pair,) = index_list(str(tmp_path / "train.txt"), str(tmp_path)).pairs

    def found() -> list[str]:
        report = check_pair(pair, "train.txt", num_classes=3, read=read_local, decode=decode)
        return [one.kind for one in report.findings]

    write_image(tmp_path / "images" / "a.jpg").write_bytes(b"junk")
    assert found() == ["unreadable-image"]
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "annotations" / "a.png").unlink()
    assert found() == ["missing-image", "missing-mask"]


def read_jpeg(mask: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg(mask, quality))))


def shrunk(mask: np.ndarray) -> np.ndarray:
    return cv2.resize(mask, (211, 143), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("damage", [lambda m: read_jpeg(m, 75), lambda m: read_jpeg(m, 95), shrunk])
def test_masks_that_went_through_jpeg_or_a_smooth_resize_are_found_though_they_are_png(damage):
    mask = np.zeros((200, 300), np.uint8)
    for number, value in enumerate((40, 90, 200)):
        cv2.circle(mask, (70 + 80 * number, 100), 35, value, -1)
    assert not looks_resampled(mask)
    assert looks_resampled(damage(mask))


def test_real_masks_of_many_classes_do_not_look_resampled(shared_dir):
    folder = shared_dir / "data" / "coco_ccby_panoptic_semantic" / "semantic_paddleseg" / "masks"
    paths = sorted(folder.glob("*/*.png"))
    assert len(paths) == 53
    assert not any(looks_resampled(read_index_mask(path.read_bytes())) for path in paths)


def test_the_real_lossy_masks_are_found_out_as_jpeg_and_as_png(shared_dir, tmp_path):
    folder = shared_dir / "data" / "optic_disc_idrid" / "masks_lossy_jpg"
    paths = sorted(folder.glob("*.jpg"))
    assert len(paths) == 3
    for path in paths:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        write_image(tmp_path / "images" / "a b.jpg", height=grey.shape[0], width=grey.shape[1])
        for mask, wanted in ((path.read_bytes(), ["lossy-mask"]), (png(grey), ["ids-outside-classes", "lossy-mask"])):
            (tmp_path / "annotations").mkdir(exist_ok=True)
            (tmp_path / "annotations" / "a b.png").write_bytes(mask)
            (tmp_path / "train.txt").write_text("images/a b.jpg annotations/a b.png")
            (pair,) = index_list(str(tmp_path / "train.txt"), str(tmp_path)).pairs
            report = check_pair(pair, "train.txt", num_classes=2, read=read_local, decode=decode)
            assert [one.kind for one in report.findings] == wanted


def test_faults_of_a_list_are_found(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg a.png\nb.jpg\na.jpg b.png\nc.jpg a.png\n")
    index = index_list(str(tmp_path / "train.txt"), str(tmp_path))
    assert [(one.kind, one.where) for one in index.findings] == [
        ("line-invalid", "line 2"),
        ("duplicate-image", "line 3"),
        ("duplicate-mask", "line 4"),
    ]
    assert (index.num_lines, len(index.pairs)) == (4, 3)
    (tmp_path / "train.txt").write_text("\n")
    assert [one.kind for one in index_list(str(tmp_path / "train.txt"), str(tmp_path)).findings] == ["no-images"]


@pytest.mark.parametrize(
    "train, val, settings, wanted",
    [
        ({0: 9, 1: 9}, {0: 9, 1: 9}, {}, []),
        ({0: 9, 1: 9, 3: 9}, {0: 9}, {}, ["class-id-gaps"]),
        ({0: 9, 1: 9}, {0: 9, 2: 9}, {}, ["class-only-in-val"]),
        ({0: 9}, {0: 9}, {"ignored": 5}, ["only-ignored"]),
        ({0: 9, 1: 9}, {0: 9}, {"num_classes": 2, "class_names": ("a", "b")}, []),
        ({0: 9, 1: 9}, {0: 9}, {"num_classes": 3, "class_names": ("a", "b")}, ["num-classes-differ", "class-id-gaps"]),
        ({0: 9, 1: 9}, {0: 9}, {"class_names": ("a", "b", "c")}, ["class-id-gaps"]),
        ({}, {}, {}, []),
    ],
)
def test_what_all_masks_say_together(train, val, settings, wanted):
    defaults = {"ignored": 0, "num_classes": None, "class_names": None}
    found = judge_ids({"train": Counter(train), "val": Counter(val)}, files=FILES, **(defaults | settings))
    assert [one.kind for one in found] == wanted
