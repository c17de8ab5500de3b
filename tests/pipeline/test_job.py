"""Whole jobs with the fake predictor: complete, equal to one-process prediction, resumable, strict about what they share."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from rayseg.errors import ConfigError, JobMismatch, ModelError, OutputError, SourceError, TooManyFailures
from rayseg.pipeline import ledger
from rayseg.pipeline.lock import locked
from rayseg.pipeline.storage import Store
from rayseg.pipeline.verify import verify
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.tables import Unit, objects_table

from .jobs import archive, assert_same_tables, blobs, run, tables, write_image

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return archive(tmp_path_factory.mktemp("images"), 40)


@pytest.fixture(scope="module")
def done(images, tmp_path_factory, ray_local) -> Path:
    """An undisturbed job."""
    out = tmp_path_factory.mktemp("done")
    assert run(images, out, chunk_images=4).complete
    return out


def test_a_job_accounts_for_every_image_once(images, done):
    found = verify(Store(str(done)))
    assert found.ok
    assert (found.planned, found.done_ok, found.failed) == (40, 40, 0)
    ledger_rows, objects = tables(done)
    assert sorted(ledger_rows["uri"]) == sorted(str(p) for p in images.rglob("*.png"))
    assert ledger_rows["n_objects"].sum() == len(objects) > 0


@pytest.mark.parametrize("model", ["fake:instance", "fake:semantic?labels=dark,dim,bright&size=48x48"])
def test_a_job_gives_what_one_process_gives(images, tmp_path, model):
    assert run(images, tmp_path, model=model).complete
    spec = load_model_dir(model)
    predictor = Predictor(spec)
    wanted = []
    for path in sorted(images.rglob("*.png")):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        (result,) = predictor.predict([image])
        wanted.append(objects_table(Unit(str(path)), result, spec.labels).to_pandas())
    wanted = pd.concat(wanted).sort_values(["unit_id", "object_id"], ignore_index=True)
    pd.testing.assert_frame_equal(tables(tmp_path)[1], wanted)


def test_running_a_finished_job_again_does_nothing(done, images):
    before = {p: p.stat().st_mtime_ns for p in done.glob("images/*")}
    assert run(images, done, chunk_images=4).complete
    assert {p: p.stat().st_mtime_ns for p in done.glob("images/*")} == before


def test_a_job_goes_on_where_files_are_missing(done, images, tmp_path):
    out = tmp_path / "out"
    assert run(images, out, chunk_images=4).complete
    names = sorted(p.name for p in out.glob("images/*.parquet"))
    (out / "images" / names[0]).unlink()
    (out / "objects" / names[3]).unlink()
    (out / "images" / names[5]).write_bytes(b"PAR1 cut")
    assert not verify(Store(str(out))).ok
    assert run(images, out, chunk_images=4).complete
    assert_same_tables(out, done)


def test_a_row_taken_out_of_a_ledger_file_is_done_again_and_its_neighbours_are_not(done, images, tmp_path):
    out = tmp_path / "out"
    assert run(images, out, chunk_images=4).complete
    store = Store(str(out))
    name = sorted(p.stem for p in out.glob("images/*.parquet"))[2]
    rows = pd.read_parquet(out / "images" / f"{name}.parquet")
    lost = rows["unit_id"][0]
    objects = pd.read_parquet(out / "objects" / f"{name}.parquet")
    rows[1:].to_parquet(out / "images" / f"{name}.parquet", index=False)
    objects[objects["unit_id"] != lost].to_parquet(out / "objects" / f"{name}.parquet", index=False)
    assert verify(store).missing == 1
    assert run(images, out, chunk_images=4).complete
    assert_same_tables(out, done)


def test_files_of_another_length_than_planned_are_refused(images, done):
    with pytest.raises(ConfigError, match="planned with 4 images a file"):
        run(images, done, chunk_images=5)
    assert run(images, done).complete


@pytest.mark.parametrize("chunk_images", [1, 7, 100])
def test_how_the_archive_is_cut_does_not_matter(done, images, tmp_path, chunk_images):
    assert run(images, tmp_path, chunk_images=chunk_images, batch_size=3, predictors="2").complete
    assert_same_tables(tmp_path, done)


def test_bad_images_become_rows_with_stage_and_reason_and_neighbours_are_unharmed(tmp_path):
    source = archive(tmp_path / "in", 6)
    (source / "text.png").write_text("hello")
    (source / "empty.jpg").write_bytes(b"")
    (source / "gone.png").symlink_to(tmp_path / "nowhere.png")
    red = blobs(1)
    red[0, 0] = (255, 0, 0)
    write_image(source / "poison.png", red)
    result = run(source, tmp_path / "out", model="fake:instance?raise_on=255,0,0", chunk_images=4)
    assert result.complete
    rows = tables(tmp_path / "out")[0].set_index("uri")
    bad = rows[rows["status"] == "failed"]
    stages = {Path(uri).name: stage for uri, stage in bad["stage"].items()}
    assert stages == {"text.png": "decode", "empty.jpg": "decode", "gone.png": "fetch", "poison.png": "predict"}
    assert "scripted fault" in bad.loc[str(source / "poison.png"), "reason"]
    assert (bad["reason"].str.len() > 10).all()
    good = tmp_path / "good"
    assert run(archive(tmp_path / "in2", 6), good).complete
    assert len(rows[rows["status"] == "ok"]) == 6
    assert sorted(tables(tmp_path / "out")[1]["rle_counts"]) == sorted(tables(good)[1]["rle_counts"])


def test_an_image_that_kills_the_predictor_costs_itself(tmp_path):
    source = archive(tmp_path / "in", 6)
    blue = blobs(1)
    blue[0, 0] = (0, 0, 255)
    write_image(source / "part-0" / "0000x.png", blue)
    result = run(source, tmp_path / "out", model="fake:instance?kill_on=0,0,255", chunk_images=7, predictors="1")
    assert result.complete
    rows = tables(tmp_path / "out")[0]
    (bad,) = rows[rows["status"] == "failed"].itertuples()
    assert (bad.stage, Path(bad.uri).name) == ("predict", "0000x.png")
    assert "process died on this image" in bad.reason


def test_forgetting_failures_and_running_again_does_just_those(tmp_path):
    source = archive(tmp_path / "in", 6)
    bad = source / "part-0" / "0000.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:60])
    out = tmp_path / "out"
    assert run(source, out, chunk_images=3).findings.failed == 1
    assert run(source, out, chunk_images=3).findings.failed == 1, "a failed image is not retried for ever"
    before = {p.name: p.read_bytes() for p in out.glob("objects/*")}
    bad.write_bytes(whole[:60])
    assert ledger.forget_failed(Store(str(out))) == 1
    assert verify(Store(str(out))).missing == 1
    assert run(source, out, chunk_images=3).findings.failed == 1
    assert before.items() <= {p.name: p.read_bytes() for p in out.glob("objects/*")}.items()


@pytest.mark.parametrize("limit", ["1", "20%"])
def test_too_many_failures_stop_the_job_and_keep_what_is_done(tmp_path, limit):
    source = archive(tmp_path / "in", 6)
    for i in range(4):
        (source / f"bad-{i}.png").write_text("x")
    with pytest.raises(TooManyFailures, match=r"images failed, --max-failures allows"):
        run(source, tmp_path / "out", max_failures=limit, chunk_images=2)
    # A task may have been stopped within its commit; the next run sweeps what it left.
    allowed = ("has no ledger file: orphan", "is planned but not in the ledger")
    assert all(any(text in problem for text in allowed) for problem in verify(Store(str(tmp_path / "out"))).problems)
    result = run(source, tmp_path / "out", max_failures="40%", chunk_images=2)
    assert result.complete
    assert result.within_limit


def test_label_maps_are_written_beside_the_tables(images, tmp_path):
    assert run(images, tmp_path, model="fake:semantic?labels=a,b,c,d", save_label_maps=True).complete
    maps = list((tmp_path / "label_maps").glob("*.png"))
    assert len(maps) == 40
    one = next(p for p in maps if p.name.startswith("0007_"))
    image = cv2.imread(str(images / "part-1" / "0007.png"))
    wanted = (image.sum(axis=2, dtype=np.uint16) // 3).astype(np.int32) * 4 // 256
    np.testing.assert_array_equal(cv2.imread(str(one), cv2.IMREAD_UNCHANGED), wanted)


def test_another_job_is_refused_and_the_difference_named(done, images, tmp_path):
    with pytest.raises(JobMismatch, match=r"threshold was 0\.5, now 0\.9"):
        run(images, done, threshold=0.9)
    with pytest.raises(JobMismatch, match="source was"):
        run(tmp_path, done)


def test_bad_setups_stop_on_the_driver(images, tmp_path, done):
    with pytest.raises(ModelError, match="is not a model directory"):
        run(images, tmp_path / "a", model=str(tmp_path / "nope"))
    with pytest.raises(ConfigError, match="needs a semantic model"):
        run(images, tmp_path / "a", save_label_maps=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="nothing to do"):
        run(tmp_path / "empty", tmp_path / "a")
    with pytest.raises(ConfigError, match="cluster has none"):
        run(images, tmp_path / "a", device="gpu")
    with locked(Store(str(done))), pytest.raises(OutputError, match="is writing there now"):
        run(images, done)


def test_a_run_leaves_a_note(done):
    (note,) = [json.loads(p.read_text()) for p in sorted(done.glob("runs/*.json"))[:1]]
    assert note["done"] == 40
    assert note["backend"] == "fake"
    assert set(note["stage_seconds"]) == {"fetch", "decode", "prepare", "predict", "encode"}
