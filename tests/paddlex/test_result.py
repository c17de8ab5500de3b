"""Result objects: values, files, names and pictures."""

from __future__ import annotations

import json
import pickle

import cv2
import numpy as np
import pytest

import rayseg
from rayseg import draw, rle
from rayseg.errors import ConfigError, OutputError, SourceError
from rayseg.geometry import Size
from rayseg.paddlex import drawing
from rayseg.paddlex.drawing import FONT_VARIABLE, colour_map, readable
from rayseg.paddlex.result import InstanceResult, SemanticResult
from rayseg.results import Instances, SemanticMap
from tests.paddlex.conftest import BLUE, GREEN, RED, blob, save


@pytest.fixture(scope="module")
def model():
    return rayseg.create_model("fake-instance", "fake:instance", device="cpu")


@pytest.fixture(scope="module")
def mapper():
    return rayseg.create_model("fake-semantic", "fake:semantic", device="cpu")


def discs() -> Instances:
    """Two discs with boxes on fractions of pixels; one at the edge."""
    size = Size(50, 70)
    ys, xs = np.mgrid[: size.height, : size.width]
    masks = [rle.encode((ys - y) ** 2 + (xs - x) ** 2 < 81) for y, x in ((20, 20), (45, 66))]
    boxes = np.float32([[11.4, 11.6, 29.5, 28.5], [57.2, 36.5, 70, 50]])
    return Instances(size, boxes, np.float32([0.9, 0.5]), [1, 0], tuple(masks))


def result(found=None, labels=("a", "b"), **kwargs) -> InstanceResult:
    return InstanceResult("in/x.png", None, found or discs(), labels, origin=None, stem="x", **kwargs)


def test_masks_are_cut_to_their_rounded_boxes_and_fit_back():
    found, res = discs(), result()
    assert [mask.shape for mask in res["masks"]] == [(16, 19), (14, 13)]  # round(11.6):round(28.5), half to even
    for i, box in enumerate(res["boxes"]):
        x0, y0, x1, y1 = (round(edge) for edge in box["coordinate"])
        canvas = np.zeros(found.size.hw, np.uint8)
        canvas[y0:y1, x0:x1] = res["masks"][i]
        whole = rle.decode(found.masks[i])
        np.testing.assert_array_equal(canvas[y0:y1, x0:x1], whole[y0:y1, x0:x1])
        np.testing.assert_array_equal(res["masks"].full(i), whole)
    assert res["masks"][0].dtype == np.uint8 and set(np.unique(res["masks"][0])) == {0, 1}
    assert [mask.shape for mask in res["masks"][1:]] == [(14, 13)] and res["masks"][-1].shape == (14, 13)


def test_json_holds_run_lengths_by_default_and_lists_where_told_to(tmp_path):
    found, res = discs(), result()
    assert list(res.json) == ["res"] and list(res.json["res"]) == ["input_path", "page_index", "boxes", "masks"]
    short = json.loads(res.save_to_json(tmp_path).read_text())
    assert short == res.json["res"]
    for mask, wanted in zip(short["masks"], found.masks, strict=True):
        assert rle.Rle(Size(*mask["size"]), mask["counts"].encode()) == wanted
    nested = json.loads(res.save_to_json(tmp_path / "n.json", indent=None, masks="nested").read_text())
    np.testing.assert_array_equal(nested["masks"][0], res["masks"][0])
    assert nested["boxes"] == short["boxes"]
    with pytest.raises(ConfigError, match="masks='png'"):
        res.save_to_json(tmp_path, masks="png")


def test_a_label_map_is_saved_as_regions_or_as_lists(tmp_path):
    labels = np.uint8([[0, 0, 2], [2, 2, 2]])
    res = SemanticResult("x.png", None, SemanticMap(labels), ("sky", "land", "sea"), origin=None, stem="x")
    assert res["pred"].dtype == np.int32 and res["pred"].shape == (1, 2, 3)
    short = json.loads(res.save_to_json(tmp_path).read_text())["pred"]
    assert [(one["cls_id"], one["label"]) for one in short] == [(0, "sky"), (2, "sea")]
    np.testing.assert_array_equal(rle.decode(rle.Rle(Size(*short[1]["size"]), short[1]["counts"].encode())), labels == 2)
    assert json.loads(res.save_to_json(tmp_path, masks="nested").read_text())["pred"] == [labels.tolist()]


def test_print_leaves_masks_out(capsys):
    res = result(labels=("a", "größe"))
    res.print()
    assert eval(capsys.readouterr().out) == {"res": {**res, "masks": "..."}}
    res.print(json_format=True, indent=2)
    text = capsys.readouterr().out
    assert "größe" in text and text.startswith('{\n  "res"') and json.loads(text)["res"]["masks"] == "..."
    res.print(json_format=True, ensure_ascii=True)
    assert "gr\\u00f6" in capsys.readouterr().out
    assert eval(res.str)["res"]["page_index"] is None


def test_what_the_caller_changes_is_what_is_saved(model, tmp_path):
    image = blob(RED) + blob(GREEN, at=(32, 38, 2, 9))
    (res,) = model.predict(image[..., ::-1])
    assert len(res["boxes"]) == 2
    keep = [i for i, box in enumerate(res["boxes"]) if box["label"] == "green"]
    res["masks"] = [res["masks"][i] for i in keep]
    with pytest.raises(ValueError, match="1 masks and 2 boxes"):
        res.json  # noqa: B018
    res["boxes"] = [res["boxes"][i] for i in keep]
    (mask,) = res.json["res"]["masks"]
    np.testing.assert_array_equal(rle.decode(rle.Rle(Size(*mask["size"]), mask["counts"].encode())), image[..., 1] == 255)
    assert res.draw().size == (60, 40)


def test_a_result_survives_pickling_and_does_not_hold_its_image(model, tmp_path):
    path = save(tmp_path / "big.png", blob(size=(600, 800)))
    (res,) = model.predict(path)
    again = pickle.dumps(res)
    assert len(again) < 5000
    twin = pickle.loads(again)
    assert twin == res and twin.draw().tobytes() == res.draw().tobytes() and twin.stem == "big"


def test_the_image_is_read_again_when_it_is_wanted_and_an_exchanged_one_is_noticed(model, tmp_path):
    path = save(tmp_path / "x.png", blob())
    (res,) = model.predict(path)
    np.testing.assert_array_equal(res["input_img"], cv2.imread(str(path)))
    assert "input_img" not in res.json["res"]
    with pytest.raises(KeyError, match="class_ids"):
        res["class_ids"]
    save(path, blob(size=(50, 50)))
    with pytest.raises(SourceError, match="is now 50 x 50 pixels, the result is of 60 x 40"):
        res.draw()
    path.unlink()
    with pytest.raises(SourceError, match="x.png: there is no such file"):
        res.save_to_img(tmp_path / "out")


# ---- names


def test_equal_names_in_different_folders_do_not_overwrite_each_other(model, tmp_path):
    for name in ("a/x.png", "b/x.png", "b/x.jpg", "y.jpeg"):
        save(tmp_path / "in" / name, blob())
    for res in model.predict(tmp_path / "in"):
        res.save_all(tmp_path / "out")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(written) == 8 and {"x_res.json", "x_res.png", "y_res.jpeg", "y_res.json"} <= set(written)
    sources = [json.loads(path.read_text())["input_path"] for path in (tmp_path / "out").glob("*.json")]
    assert sorted(sources) == sorted(str(path) for path in (tmp_path / "in").rglob("*.*p*g"))
    for res in model.predict([tmp_path / "in/a/x.png"] * 2):
        assert res.save_to_json(tmp_path / "two").name == "x_res.json"


def test_arrays_get_names_of_their_own(model, tmp_path):
    for _ in range(3):
        for res in model.predict([blob()[..., ::-1]] * 2):
            res.save_all(tmp_path)
    assert len(list(tmp_path.glob("*_res.json"))) == len(list(tmp_path.glob("*_res.png"))) == 6


def test_a_path_with_an_ending_is_the_file(model, tmp_path):
    (res,) = model.predict(save(tmp_path / "x.png", blob()))
    assert res.save_to_img(tmp_path / "deep/er/p.jpg") == tmp_path / "deep/er/p.jpg"
    assert (tmp_path / "deep/er/p.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert res.save_to_json(str(tmp_path / "r.json")) == tmp_path / "r.json"
    assert res.save_to_json(tmp_path / "v1.0") == tmp_path / "v1.0/x_res.json"
    assert res.save_to_img(tmp_path / "r.txt") == tmp_path / "r.txt/x_res.png"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be made"):
        res.save_all(tmp_path / "file")


# ---- pictures


@pytest.mark.parametrize("name, colour", [("red", RED), ("blue", BLUE)])
def test_the_image_under_a_mask_keeps_its_colours(model, name, colour):
    image = blob(colour, size=(200, 300), at=(50, 150, 100, 200))
    (res,) = model.predict(image[..., ::-1])
    assert res["boxes"][0]["label"] == name
    drawn = np.array(res.img["res"])
    mask_colour = draw.PALETTE[res["boxes"][0]["cls_id"]]
    np.testing.assert_allclose(drawn[100, 150], 0.6 * np.array(colour) + 0.4 * mask_colour, atol=1)
    assert (drawn[0, -1] == 0).all()


def test_a_class_has_one_colour_whatever_else_is_in_the_image():
    size = Size(60, 60)
    masks = tuple(rle.encode_in_window(np.ones((20, 20)), rle.Window(x, 30, x + 20, 50), size) for x in (5, 35))
    boxes = [[5, 30, 25, 50], [35, 30, 55, 50]]
    image = np.zeros((60, 60, 3), np.uint8)
    both = np.array(drawing.draw_instances(image, Instances(size, boxes, [0.9, 0.8], [3, 7], masks), ["a", "b"]))
    one = np.array(drawing.draw_instances(image, Instances(size, boxes[1:], [0.8], [7], masks[1:]), ["b"]))
    np.testing.assert_array_equal(both[40, 45], one[40, 45])
    assert (both[40, 45] != both[40, 15]).any()


@pytest.mark.parametrize("label", ["person", "größe", "человек", "行人", "", "a\nb\tc", "\ud800", "🚗", "x" * 300])
def test_any_label_can_be_drawn(label):
    size = Size(40, 50)
    found = Instances(size, [[0, 0, 50, 40]], [1.0], [2], (rle.encode(np.ones(size.hw)),))
    picture = drawing.draw_instances(np.zeros((40, 50, 3), np.uint8), found, [label])
    assert picture.size == (50, 40)


def test_labels_without_letters_in_the_font_become_class_numbers():
    font = drawing._font(20)
    assert readable(font, "человек\nб", 3) == "человек б"
    assert readable(font, "行人", 3) == readable(font, "🚗", 3) == readable(font, " ", 3) == "class 3"


def test_another_font_is_honoured_or_refused(monkeypatch, tmp_path):
    (tmp_path / "no.ttf").write_text("no font")
    monkeypatch.setenv(FONT_VARIABLE, str(tmp_path / "no.ttf"))
    with pytest.raises(ConfigError, match="no.ttf: is no font"):
        drawing.draw_instances(np.zeros((50, 70, 3), np.uint8), discs(), ["a", "b"])


def test_the_font_comes_with_its_licence():
    folder = drawing._OWN_FONT.parent
    assert "Bitstream Vera" in (folder / "LICENSE_DEJAVU").read_text() and drawing._OWN_FONT.is_file()


def test_semantic_pictures_are_overlays_or_paddlex_colours(mapper, tmp_path):
    image = np.repeat(np.uint8([[10, 120, 250]])[..., None], 3, axis=2).repeat(30, axis=0).repeat(30, axis=1)
    (res,) = mapper.predict(image)
    assert np.unique(res["pred"]).tolist() == [0, 1, 2]
    plain = cv2.imread(str(res.save_to_img(tmp_path / "map.png", style="colour_map")))[..., ::-1]
    assert [plain[15, x].tolist() for x in (5, 45, 85)] == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    drawn = np.array(res.img["res"])
    np.testing.assert_allclose(drawn[15, 15], 0.5 * image[15, 15] + 0.5 * draw.PALETTE[0], atol=1)
    with pytest.raises(ConfigError, match="style='x'"):
        res.draw("x")
    with pytest.raises(ConfigError, match="over their image only"):
        result().draw("colour_map")


def test_the_last_class_has_a_colour_too():
    picture = np.array(colour_map(SemanticMap(np.uint16([[255, 256, 0]]))))
    assert picture[0].tolist() == [[0, 0, 32], [128, 0, 0], [128, 0, 0]]


def test_an_image_without_objects_has_a_result_and_a_picture(model, tmp_path):
    (res,) = model.predict(np.zeros((20, 30, 3), np.uint8))
    assert res["boxes"] == [] and len(res["masks"]) == 0 and res.json["res"]["masks"] == []
    assert not np.array(res.draw()).any()
    res.save_all(tmp_path)
