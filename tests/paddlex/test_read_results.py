"""Results of a job's tables, as objects; the tables are written by hand."""

from __future__ import annotations

import numpy as np
import pytest

import rayseg
from rayseg.errors import ConfigError, OutputError, SourceError
from rayseg.geometry import Size
from rayseg.results import Instances, SemanticMap
from tests.pipeline.handmade import Done, discs, write_image, write_out

LABELS = ["cat", "dog", "cow"]


@pytest.fixture
def job(tmp_path):
    """Six images, two files a commit: three with discs, one with none, one failed, one not done; returns (out, found by uri)."""
    units = [write_image(tmp_path / "in" / f"{i % 2}" / f"x{i // 2}.png", Size(80, 100), seed=i) for i in range(6)]
    found = {
        unit.uri: discs(Size(80, 100), 4, seed=i, n_classes=3, scores=[0.9, 0.7, 0.5, 0.3]) for i, unit in enumerate(units[:3])
    }
    done = [Done(unit, found[unit.uri]) for unit in units[:3]]
    done += [Done(units[3], Instances.none(Size(80, 100))), Done(units[4], ("decode", "CorruptImage: no"))]
    return write_out(tmp_path / "out", done, labels=LABELS, left=units[5:], chunk_images=2), found


def test_every_image_with_objects_comes_once_with_its_objects(job):
    out, found = job
    results = list(rayseg.read_results(out))
    assert [res["input_path"] for res in results] == sorted(found)
    for res in results:
        wanted = found[res["input_path"]]
        assert res.found.masks == wanted.masks and res["page_index"] is None
        np.testing.assert_array_equal(res.found.boxes_xyxy, wanted.boxes_xyxy)
        assert [box["label"] for box in res["boxes"]] == [LABELS[c] for c in wanted.class_ids]
    assert len(list(rayseg.read_results(str(out), empty=True))) == 4


def test_filters_leave_out_objects_and_then_images(job):
    out, found = job
    strict = list(rayseg.read_results(out, min_score=0.7))
    assert [[box["score"] for box in res["boxes"]] for res in strict] == [[np.float32(0.9), np.float32(0.7)]] * 3
    for filters in ({"class_": 1}, {"label": "dog"}, {"class_": [1], "label": ["dog"]}):
        dogs = {res["input_path"]: [box["score"] for box in res["boxes"]] for res in rayseg.read_results(out, **filters)}
        assert dogs == {uri: one.scores[one.class_ids == 1].tolist() for uri, one in sorted(found.items()) if 1 in one.class_ids}
    some = min(found)
    assert [res["input_path"] for res in rayseg.read_results(out, uri=some)] == [some]
    assert {res["input_path"].rsplit("/", 1)[-1] for res in rayseg.read_results(out, uri={"x0.png"})} == {"x0.png"}
    assert list(rayseg.read_results(out, uri="nothing.png")) == []


def test_images_are_needed_for_pictures_only(job, tmp_path):
    out, found = job
    first, second, *_ = rayseg.read_results(out)
    assert first.save_to_img(tmp_path / "drawn").name == "x0_res.png"
    for uri in found:
        (tmp_path / uri).unlink()
    assert first.save_to_json(tmp_path / "drawn").is_file()
    with pytest.raises(SourceError, match="x1.png: cannot be read any more"):
        second.draw()


def test_equal_names_of_a_job_do_not_overwrite_each_other(job, tmp_path):
    out, _ = job
    names = [res.save_to_json(tmp_path / "j").name for res in rayseg.read_results(out)]
    assert names[0] == "x0_res.json" and len(set(names)) == 3


def test_label_maps_come_whole(tmp_path):
    units = [write_image(tmp_path / f"{i}.png", Size(4, 6)) for i in range(2)]
    maps = [np.uint8(np.arange(24).reshape(4, 6) % 2), np.full((4, 6), 2, np.uint8)]
    done = [Done(unit, SemanticMap(one)) for unit, one in zip(units, maps, strict=True)]
    out = write_out(tmp_path / "out", done, labels=LABELS, task="semantic")
    for res, wanted in zip(rayseg.read_results(out), maps, strict=True):
        assert res["pred"].dtype == np.int32
        np.testing.assert_array_equal(res["pred"][0], wanted)
    (dogs,) = rayseg.read_results(out, label="dog")
    np.testing.assert_array_equal(dogs["pred"][0], maps[0])
    with pytest.raises(ConfigError, match="have no scores"):
        rayseg.read_results(out, min_score=0.5)


@pytest.mark.parametrize(
    "filters, message",
    [
        ({"class_": 3}, "class_ 3: .* classes 0 to 2"),
        ({"class_": "dog"}, "for names use label="),
        ({"label": "dig"}, "did you mean 'dog'"),
    ],
)
def test_a_class_the_model_does_not_have_is_refused_at_once(job, filters, message):
    with pytest.raises(ConfigError, match=message):
        rayseg.read_results(job[0], **filters)


def test_a_folder_without_a_job_is_refused_at_once(tmp_path):
    with pytest.raises(OutputError, match="no job.json there"):
        rayseg.read_results(tmp_path)


def test_objects_that_are_missing_are_noticed(job):
    import pyarrow.parquet as pq

    out, _ = job
    file = min((out / "objects").iterdir())
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(OutputError, match="run `rayseg verify`"):
        list(rayseg.read_results(out))
