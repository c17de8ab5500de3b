"""Jobs that decode large JPEGs smaller: rows in the size of the image, near those of an exact job, and never mixed with them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from rayseg import rle
from rayseg.cli import main
from rayseg.config.segment import SegmentSettings
from rayseg.errors import ConfigError, JobMismatch
from rayseg.geometry import Size
from rayseg.images import DecodeWorker
from rayseg.pipeline import stages
from rayseg.pipeline.stages import Context, Work
from rayseg.pipeline.storage import Store
from rayseg.predict.model_dir import load_model_dir
from rayseg.tables import Unit
from tests.images.builders import encode, with_orientation

from .jobs import archive, run, tables

MODEL = "fake:instance?size=300x400"
LARGE = Size(1203, 1605)
NETWORK_PX = LARGE.height / 300  # one pixel of the network's input, in pixels of the image


def squares(size: Size) -> np.ndarray:
    """Four bright squares on black, RGB."""
    image = np.zeros((*size.hw, 3), np.uint8)
    for i, colour in enumerate([(250, 180, 180), (180, 250, 180), (180, 180, 250), (250, 160, 160)]):
        y, x = size.height * (1 + 2 * (i % 2)) // 5, size.width * (1 + 2 * (i // 2)) // 5
        image[y : y + size.height // 6, x : x + size.width // 7] = colour
    return image


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """JPEGs that can be decoded smaller, and files that cannot."""
    folder = tmp_path_factory.mktemp("images")
    large = squares(LARGE)
    (folder / "large.jpg").write_bytes(encode(large, "JPEG", quality=95))
    (folder / "turned.jpg").write_bytes(with_orientation(np.rot90(large), "JPEG", 6))
    (folder / "small.jpg").write_bytes(encode(squares(Size(300, 410)), "JPEG", quality=95))
    (folder / "large.png").write_bytes(encode(large, "PNG"))
    (folder / "cut.jpg").write_bytes((folder / "large.jpg").read_bytes()[: (folder / "large.jpg").stat().st_size * 3 // 4])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00")
    return folder


@pytest.fixture(scope="module")
def exact(images, tmp_path_factory, ray_local) -> Path:
    out = tmp_path_factory.mktemp("exact")
    assert run(images, out, model=MODEL).complete
    return out


@pytest.fixture(scope="module")
def scaled(images, tmp_path_factory, ray_local) -> Path:
    out = tmp_path_factory.mktemp("scaled")
    assert run(images, out, model=MODEL, scaled_decode=True).complete
    return out


def by_name(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return dict(iter(frame.groupby(frame["uri"].map(lambda uri: Path(uri).name))))


def test_the_ledger_is_that_of_an_exact_job(exact, scaled):
    pd.testing.assert_frame_equal(tables(scaled)[0], tables(exact)[0])
    rows = {Path(row.uri).name: row for row in tables(scaled)[0].itertuples()}
    assert (rows["large.jpg"].height, rows["large.jpg"].width) == LARGE.hw
    assert (rows["turned.jpg"].height, rows["turned.jpg"].width) == LARGE.hw
    assert {name for name, row in rows.items() if row.status == "failed"} == {"cut.jpg", "broken.jpg"}


def test_objects_lie_where_an_exact_job_finds_them_in_masks_of_the_images_size(exact, scaled):
    found, wanted = by_name(tables(scaled)[1]), by_name(tables(exact)[1])
    for name in ("large.jpg", "turned.jpg"):
        assert len(found[name]) == len(wanted[name]) == 4
        edges = ["x0", "y0", "x1", "y1"]
        apart = np.abs(found[name][edges].to_numpy() - wanted[name][edges].to_numpy())
        assert apart.max() <= 2 * NETWORK_PX
        assert found[name]["class_id"].tolist() == wanted[name]["class_id"].tolist()
        for a, b in zip(found[name].itertuples(), wanted[name].itertuples(), strict=True):
            one, other = (rle.decode(rle.Rle(LARGE, row.rle_counts.encode())) for row in (a, b))
            assert one.shape == LARGE.hw
            assert (one & other).sum() / (one | other).sum() > 0.9
    for name in ("small.jpg", "large.png"):
        pd.testing.assert_frame_equal(found[name], wanted[name])


@pytest.mark.parametrize("name, flag", [("large.jpg", cv2.IMREAD_REDUCED_COLOR_4), ("small.jpg", cv2.IMREAD_COLOR)])
def test_a_large_jpeg_is_decoded_at_a_quarter_before_it_is_resized(images, tmp_path, name, flag):
    data = (images / name).read_bytes()
    settings = SegmentSettings(str(images), str(tmp_path), MODEL, scaled_decode=True)
    context = Context(settings, load_model_dir(MODEL), Store(str(tmp_path)), None)
    work = stages._decode(Work(Unit(name)), (data, 0.0), context)
    pixels = cv2.resize(cv2.imdecode(np.frombuffer(data, np.uint8), flag), (400, 300), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(work.content.pixels, pixels[..., ::-1])
    header = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape
    assert (work.height, work.width) == work.content.original.hw == header[:2]


def test_a_decoder_that_crashes_costs_one_image(images, tmp_path, monkeypatch):
    (tmp_path / "crashing_decoder.py").write_text(
        "import os\nfrom rayseg.images.decoding import decode_bgr\n"
        "def decode(data, *, reduce, **options):\n"
        "    if reduce > 1:\n        os.abort()\n"
        "    return decode_bgr(data, reduce=reduce, **options)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = SegmentSettings(str(images), str(tmp_path), MODEL, scaled_decode=True)
    context = Context(settings, load_model_dir(MODEL), Store(str(tmp_path)), None)
    with DecodeWorker(decoder="crashing_decoder:decode") as worker:
        monkeypatch.setattr(stages, "_decoder", lambda timeout_s: worker)
        bad = stages._decode(Work(Unit("large.jpg")), ((images / "large.jpg").read_bytes(), 0.0), context)
        good = stages._decode(Work(Unit("small.jpg")), ((images / "small.jpg").read_bytes(), 0.0), context)
    assert bad.stage == "decode" and "SIGABRT" in bad.reason
    assert good.stage is None and good.content.original == Size(300, 410)


def test_cut_files_come_whole_where_they_are_allowed(images, tmp_path):
    data, contents = (images / "cut.jpg").read_bytes(), []
    for scaled in (False, True):
        settings = SegmentSettings(str(images), str(tmp_path), MODEL, allow_truncated=True, scaled_decode=scaled)
        context = Context(settings, load_model_dir(MODEL), Store(str(tmp_path)), None)
        contents.append(stages._decode(Work(Unit("cut.jpg")), (data, 0.0), context).content)
    np.testing.assert_array_equal(contents[0].pixels, contents[1].pixels)
    assert contents[0].original == contents[1].original == LARGE


def test_a_folder_of_results_belongs_to_one_way_of_decoding(images, exact, scaled):
    with pytest.raises(JobMismatch, match="scaled_decode was None, now True"):
        run(images, exact, model=MODEL, scaled_decode=True)
    with pytest.raises(JobMismatch, match="scaled_decode was True, now None"):
        run(images, scaled, model=MODEL)
    job = json.loads((scaled / "job.json").read_text())
    assert job["identity"]["scaled_decode"] is True and job["settings"]["scaled_decode"] is True
    assert "scaled_decode" not in json.loads((exact / "job.json").read_text())["identity"]
    before = (scaled / "job.json").read_text()
    assert main(["retry", str(scaled), "--no-report", "-q"]) == 0  # with the settings of the job
    assert json.loads((scaled / "job.json").read_text())["identity"] == json.loads(before)["identity"]


def test_models_that_take_images_as_they_are_and_scenes_are_refused(ray_local, tmp_path, capsys):
    source = archive(tmp_path / "in", 1)
    with pytest.raises(
        ConfigError, match="scaled_decode is for models that begin by resizing images to their input; fake-instance does not"
    ):
        run(source, tmp_path / "out", model="fake:instance", scaled_decode=True)
    flags = ["-m", MODEL, "--scaled-decode", "--scenes", "--no-report", "-q"]
    assert main(["segment", str(source), str(tmp_path / "out"), *flags]) == 2
    assert "scaled_decode is about images that are decoded whole; scenes are read by windows" in capsys.readouterr().err
    assert not (tmp_path / "out" / "job.json").exists()
