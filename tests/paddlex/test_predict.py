"""The stream of results: what may go in, that order and neighbours are kept, and what a bad file costs."""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rayseg
from rayseg.errors import BackendError, ConfigError, ImageError, SourceError, TruncatedImage
from rayseg.paddlex.model import SegmentationModel
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.predictor import Predictor
from tests.paddlex.conftest import BLUE, GREEN, RED, blob, save

COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


@pytest.fixture(scope="module")
def model():
    """Calls a bright blob by its colour, and is out of order when the first pixel is white."""
    return rayseg.create_model("fake-instance", "fake:instance?raise_on=255,255,255", device="cpu")


def found(results) -> list[str]:
    """Label of the one object of each result."""
    return [res["boxes"][0]["label"] for res in results]


def picture(name: str, **where) -> np.ndarray:
    return blob(COLOURS[name], **where)


def bgr(name: str, **where) -> np.ndarray:
    return picture(name, **where)[..., ::-1]


def test_arrays_are_bgr_of_any_size_also_grey_and_with_alpha(model):
    (res,) = model.predict(bgr("red"))
    assert found([res]) == ["red"] and (res["input_path"], res["page_index"]) == (None, None)
    assert found(model.predict(np.dstack([bgr("blue"), np.zeros((40, 60), np.uint8)]))) == ["blue"]
    (grey,) = model.predict(bgr("blue").max(axis=2))
    assert len(grey["boxes"]) == 1
    images = [bgr("red"), bgr("green", size=(70, 50)), bgr("blue", size=(33, 99))]
    assert found(model.predict(images, batch_size=3)) == ["red", "green", "blue"]


def test_paths_folders_and_nested_lists_come_in_their_order(model, tmp_path):
    one = save(tmp_path / "one.png", picture("green"))
    for name, colour in (("b/y.PNG", "red"), ("b.png", "blue"), ("a/z.bmp", "green"), ("b/sub/x.png", "blue")):
        save(tmp_path / "in" / name.lower(), picture(colour)).rename(tmp_path / "in" / name)
    (tmp_path / "in/notes.txt").write_text("no image")
    results = list(model.predict([str(one), [bgr("red"), [tmp_path / "in"]], (one,)], batch_size=4))
    assert found(results) == ["green", "red", "green", "blue", "blue", "red", "green"]
    paths = [res["input_path"] for res in results[2:6]]
    assert paths == sorted(paths) == [str(tmp_path / "in" / n) for n in ("a/z.bmp", "b.png", "b/sub/x.png", "b/y.PNG")]


def test_nothing_is_read_before_its_turn(model, tmp_path):
    asked = []

    def frames():
        for index in range(1000):
            asked.append(index)
            yield bgr("red")

    stream = model.predict(frames(), batch_size=2)
    assert asked == []
    next(stream)
    assert asked == [0, 1]


def test_pages_of_a_tiff_are_images_of_their_own(model, tmp_path):
    pages = [Image.fromarray(picture(name)) for name in COLOURS]
    pages[0].save(tmp_path / "three.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tif")
    results = list(model.predict([tmp_path / "three.tif", tmp_path / "one.tif"], batch_size=2))
    assert found(results) == ["red", "green", "blue", "red"]
    assert [res["page_index"] for res in results] == [0, 1, 2, 0]
    for res in results:
        res.save_all(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == [
        f"{n}_res.json" for n in ("one_0", "three_0", "three_1", "three_2")
    ]
    assert found(model.predict(results[1].image()[..., ::-1])) == ["green"]


def test_pages_of_a_pdf_are_images_of_their_own(model, tmp_path):
    pytest.importorskip("pypdfium2")
    pages = [Image.fromarray(picture(name)) for name in ("red", "blue")]
    pages[0].save(tmp_path / "two.pdf", save_all=True, append_images=pages[1:], resolution=72)
    results = list(model.predict(tmp_path / "two.pdf"))
    assert found(results) == ["red", "blue"] and [res["page_index"] for res in results] == [0, 1]
    assert results[0].size.hw == (80, 120)
    (tmp_path / "cut.pdf").write_bytes(b"%PDF-1.7 and no more")
    (bad,) = model.predict(tmp_path / "cut.pdf", on_error="skip")
    assert "the PDF cannot be read" in bad["error"]


def test_a_pdf_without_its_package_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(ConfigError, match=r"x.pdf: it is a PDF, which needs pypdfium2: pip install 'rayseg\[pdf\]'"):
        list(model.predict(tmp_path / "x.pdf", on_error="skip"))


@pytest.fixture
def site(tmp_path):
    """Serves one picture for each colour asked for by query; returns its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("=")[2]
            data = save(tmp_path / "served" / "x.png", picture(name)).read_bytes() if name in COLOURS else b""
            self.send_response(200 if data else 404)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_urls_that_differ_in_their_query_only_are_different_images(model, site, tmp_path):
    urls = [f"{site}/img/photo.png?colour={name}" for name in COLOURS]
    results = list(model.predict(urls, batch_size=3))
    assert found(results) == list(COLOURS) and [res["input_path"] for res in results] == urls
    names = [res.save_to_img(tmp_path / "out").name for res in results]
    assert names[0] == "photo_res.png" and len(set(names)) == 3
    with pytest.raises(SourceError, match=r"photo.png\?colour=grey: cannot be downloaded .*404"):
        list(model.predict(f"{site}/img/photo.png?colour=grey"))
    with pytest.raises(SourceError, match="s3://x/y.png: only http and https"):
        list(model.predict("s3://x/y.png"))


def test_a_bad_file_stops_the_stream_after_the_good_ones_before_it(model, tmp_path):
    good = save(tmp_path / "a.png", picture("red"))
    bad = tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:-30])
    stream = model.predict([good, good, bad, good], batch_size=8)
    assert found([next(stream), next(stream)]) == ["red", "red"]
    with pytest.raises(TruncatedImage, match=f"{bad}: .*ends"):
        next(stream)


def test_skipping_yields_a_failed_result_in_its_place(model, tmp_path):
    good = save(tmp_path / "a.png", picture("red"))
    (tmp_path / "empty").mkdir()
    broken = blob((9, 9, 9))
    broken[0, 0] = 255
    given = [good, tmp_path / "none.png", bgr("blue"), broken, np.zeros((3, 3)), tmp_path / "empty", good]
    results = list(model.predict(given, batch_size=4, on_error="skip"))
    assert [res.error is None for res in results] == [True, False, True, False, False, False, True]
    assert found([results[0], results[2], results[6]]) == ["red", "blue", "red"]
    kinds = [type(res.error) for res in results if res.error]
    assert kinds == [SourceError, BackendError, ImageError, SourceError]
    assert "input[3]: the engine failed (RuntimeError: scripted fault" in results[3]["error"]
    results[1].print()
    assert results[1].save_to_img(tmp_path / "out") is None
    assert "no such file" in results[1].save_to_json(tmp_path / "out").read_text()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"img": "a.png"}, "a dict is no input.*img"),
        (3, "int is no input"),
        (None, "NoneType is no input"),
        (b"abc", "bytes is no input"),
    ],
)
def test_what_is_no_input_is_refused_and_never_taken_for_no_images(model, given, message):
    with pytest.raises(ConfigError, match=message):
        model.predict(given)
    with pytest.raises(ConfigError, match=rf"input\[1\]: {message}"):
        list(model.predict([bgr("red"), given], on_error="skip"))


def test_no_images_are_no_results(model, tmp_path):
    assert list(model.predict([])) == []
    with pytest.raises(SourceError, match="holds no image"):
        list(model.predict(tmp_path))


class Counting(Predictor):
    """Notes in which thread it ran, and can wait for another one."""

    def __init__(self, meet: threading.Barrier) -> None:
        super().__init__(fake_spec("instance", raise_on=(255, 255, 255)))
        self.threads: set[int] = set()
        self.images: list[int] = []
        self._meet = meet

    def run(self, images, **settings):
        self.threads.add(threading.get_ident())
        self.images.append(len(images))
        if len(self.images) == 1:
            self._meet.wait(timeout=30)  # the first batches run at the same time, or this breaks
        return super().run(images, **settings)


def test_several_devices_work_at_the_same_time_and_keep_the_order():
    meet = threading.Barrier(2)
    pair = [Counting(meet), Counting(meet)]
    model = SegmentationModel(pair, batch_size=2)
    names = [list(COLOURS)[i % 3] for i in range(11)]
    assert found(model.predict([bgr(name) for name in names])) == names
    assert [sum(one.images) for one in pair] == [6, 5]
    assert all(len(one.threads) == 1 for one in pair) and pair[0].threads != pair[1].threads


def test_several_devices_stop_at_a_bad_image_after_the_good_ones_and_leave_no_thread():
    meet = threading.Barrier(2)
    model = SegmentationModel([Counting(meet), Counting(meet)])
    before = threading.active_count()
    stream = model.predict([bgr("red"), bgr("blue"), Path("missing.png"), bgr("red")])
    assert found([next(stream), next(stream)]) == ["red", "blue"]
    with pytest.raises(SourceError, match="missing.png"):
        next(stream)
    assert threading.active_count() == before


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_a_result_does_not_depend_on_its_batch(model_dirs, pictures, task):
    model = rayseg.create_model(model_dir=model_dirs[task], device="cpu", threshold=0.4 if task == "instance" else None)
    arrays = [image[..., ::-1] for image in pictures[:4]]  # three sizes
    wanted = model._predictors[0].predict(pictures[:4], 0.4 if task == "instance" else None)
    for batch_size in (1, 4):
        for res, one in zip(model.predict(arrays, batch_size=batch_size), wanted, strict=True):
            if task == "semantic":
                np.testing.assert_array_equal(res["pred"][0], one.labels)
            else:
                assert res.found.masks == one.masks and len(res["boxes"]) == len(one)
                np.testing.assert_array_equal(res.found.boxes_xyxy, one.boxes_xyxy)


class Trial:
    """Stands in for `Fastest`: another predictor, and what it was asked with."""

    def __init__(self, answer):
        self.answer, self.seen = answer, []

    def tried(self, images):
        self.seen.append(len(images))
        return self.answer


def always_a_box() -> list[Predictor]:
    return [Predictor(fake_spec(pattern="box"), "auto")]


def test_the_first_images_find_a_faster_engine_once_and_none_is_lost():
    trial = Trial([Predictor(fake_spec(), "auto")])
    model = SegmentationModel(always_a_box(), fastest=trial)
    images = [picture(name) for name in ("red", "green", "blue")]
    assert found(model.predict(images)) == found(SegmentationModel(trial.answer).predict(images))
    list(model.predict(images))
    assert trial.seen == [3]


def test_where_engines_cannot_be_tried_the_first_predictor_stays():
    trial = Trial(None)
    model = SegmentationModel(always_a_box(), fastest=trial, batch_size=2)
    images = [picture("red")] * 30
    assert found(model.predict(images)) == found(SegmentationModel(always_a_box()).predict(images))
    assert trial.seen == [8]


def test_images_that_cannot_be_read_leave_the_trial_for_the_next_call(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    trial = Trial(None)
    model = SegmentationModel(always_a_box(), fastest=trial)
    (failed,) = model.predict(tmp_path / "bad.png", on_error="skip")
    assert failed.error is not None and trial.seen == []
    list(model.predict([picture("red")]))
    assert trial.seen == [1]
