"""Buckets behave like folders: listed, read, written on a real server; faults are ridden out, refusals explained."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from rayseg.errors import OutputError, SourceError
from rayseg.pipeline.sources import expand, open_source, read_manifest, to_path
from rayseg.pipeline.storage import Store, filesystem

from .jobs import archive
from .s3_server import flaky, no_other_credentials, serve_s3

pytest.importorskip("s3fs")
N = 80
ODD = ["a b.png", "q\"uote'.png", "图像.png", "%41.png", "#1.png", "a[1].png", "a+b.png", "-.png", "ümlaut&x=1.png"]

# What s3fs and botocore leave open when they are broken off on purpose, and what our proxy does with connections.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def buckets(tmp_path_factory) -> Path:
    """photos/: an archive; odd/: odd names; results/: empty."""
    root = tmp_path_factory.mktemp("s3")
    archive(root / "photos" / "2024", N)
    (root / "results").mkdir()
    (root / "odd" / "in" / ".hidden").mkdir(parents=True)
    for name in [*ODD, ".DS_Store", ".hidden/x.png"]:
        (root / "odd" / "in" / name).write_bytes(name.encode())
    (root / "odd" / "list.txt").write_text("in/a b.png\ns3://odd/in/#1.png\n")
    return root


@pytest.fixture(scope="module")
def s3(buckets):
    with no_other_credentials(), serve_s3(buckets) as server:
        yield server


@pytest.fixture
def store(s3, request) -> Store:
    return Store(f"s3://results/{request.node.name}", s3.options)


def test_a_file_is_read_back_as_written_listed_and_gone_once_deleted(store):
    assert store.list("images") == {}
    assert not store.exists("images/a.parquet")
    store.write("images/a.parquet", b"12345")
    store.write("images/a.parquet", b"123")
    assert store.read("images/a.parquet") == b"123"
    assert store.list("images") == {"a.parquet": 3}
    assert store.exists("images/a.parquet")
    store.delete("images/a.parquet")
    store.delete("images/a.parquet")
    assert store.list("images") == {}
    with pytest.raises(FileNotFoundError):
        store.read("images/a.parquet")


def test_deleting_a_folder_leaves_its_neighbours(store):
    for name in ("plan/.runs/0", "plan/.runs/1", "plan/00-00000", "plans/x"):
        store.write(name, b"x")
    store.delete_folder("plan/.runs")
    assert store.list("plan") == {"00-00000": 1}
    assert store.list("plan/.runs") == {}
    store.delete_folder("plan")
    store.delete_folder("plan")
    assert store.list("plan") == {}
    assert store.list("plans") == {"x": 1}


def test_a_bucket_is_walked_like_a_folder_and_etags_are_kept(s3, buckets):
    units = _walk("s3://photos", s3.options)
    assert sorted(u.uri for u in units) == sorted(f"s3://{p.relative_to(buckets)}" for p in buckets.glob("photos/**/*.png"))
    assert {u.uri: u.bytes for u in units} == {
        f"s3://{p.relative_to(buckets)}": p.stat().st_size for p in buckets.glob("photos/**/*.png")
    }
    assert all(u.version and len(u.version) == 32 for u in units)
    assert len(_walk("s3://photos/2024/part-1/", s3.options)) == len(list(buckets.glob("photos/2024/part-1/*")))
    assert len(_walk("s3://photos/*/part-[02]/*.png", s3.options)) == N - len(list(buckets.glob("photos/2024/part-1/*")))
    assert len(_walk("s3://photos/2024/part-1/0001.png", s3.options)) == 1


def test_odd_names_are_found_and_read_and_hidden_ones_left_out(s3):
    units = _walk("s3://odd/in", s3.options)
    assert sorted(u.uri for u in units) == sorted(f"s3://odd/in/{name}" for name in ODD)
    fs = filesystem("s3://odd", s3.options)
    for unit in units:
        assert fs.cat_file(to_path(fs, unit.uri)) == unit.uri.rpartition("/")[2].encode()


def test_a_manifest_in_a_bucket_names_files_beside_it_or_anywhere(s3):
    source = open_source("s3://odd/list.txt", options=s3.options)
    units = [u for units in read_manifest(source) for u in units]
    assert [u.uri for u in units] == ["s3://odd/in/a b.png", "s3://odd/in/#1.png"]


def test_an_output_inside_the_source_bucket_is_never_input(s3, store):
    store.write("old/x.png", b"1")
    store.write("out/objects/y.png", b"2")
    units = _walk(store.url, s3.options, out=f"{store.url}/out")
    assert [u.uri for u in units] == [f"{store.url}/old/x.png"]


def test_a_wrong_secret_is_said_and_not_taken_for_an_empty_bucket(s3):
    wrong = s3.options | {"secret": "wrong"}
    with pytest.raises(SourceError, match=r"s3://photos/2024: cannot be read: .*credentials"):
        open_source("s3://photos/2024", options=wrong)
    store = Store("s3://results/x", wrong)
    for call in (lambda: store.exists("job.json"), lambda: store.list("images"), lambda: store.read("job.json")):
        with pytest.raises(OutputError, match=r"s3://results/x: cannot .*Check the credentials"):
            call()
    with pytest.raises(OutputError, match=r"cannot write job.json .*signature"):
        store.write("job.json", b"{}")


def test_no_credentials_at_all_is_said_at_once(s3, caplog):
    with pytest.raises(SourceError, match=r"Unable to locate credentials\. Check the path, the credentials"):
        open_source("s3://photos/2024", options={"endpoint_url": s3.url})
    assert not caplog.records, "tried again, which cannot help"


def test_a_bucket_that_is_not_there_is_said(s3):
    with pytest.raises(SourceError, match="s3://nowhere/x: there is no such file or folder"):
        open_source("s3://nowhere/x", options=s3.options)
    store = Store("s3://nowhere/x", s3.options)
    assert not store.exists("job.json")
    with pytest.raises(OutputError, match=r"cannot write job.json .*bucket does not exist"):
        store.write("job.json", b"{}")


def test_every_operation_rides_out_a_tenth_of_failing_requests(s3, store):
    with flaky(s3, share=0.1, seed=1) as (behind, trouble):
        there = Store(store.url, behind.options)
        for i in range(30):
            there.write(f"objects/{i:02d}", bytes([i]) * 1000)
            assert there.read(f"objects/{i:02d}") == bytes([i]) * 1000
            assert there.exists(f"objects/{i:02d}")
            assert not there.exists(f"images/{i:02d}")
        for i in range(0, 30, 2):
            there.delete(f"objects/{i:02d}")
            assert len(there.list("objects")) == 30 - i // 2 - 1
        assert len(_walk("s3://photos", behind.options)) == N
    assert set(trouble.made) == {"503", "500", "reset", "lost", "cut"}
    assert sum(trouble.made.values()) > 10
    assert store.list("objects") == {f"{i:02d}": 1000 for i in range(1, 30, 2)}


def test_a_storage_that_keeps_failing_is_tried_so_often_and_no_more_and_never_taken_for_an_answer(s3, store, caplog):
    store.write("job.json", b"{}")
    once = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}  # else botocore tries for itself, and each try takes seconds
    with flaky(s3, share=1.0, seed=2) as (behind, trouble), caplog.at_level(logging.WARNING):
        there = Store(store.url, behind.options | once, attempts=2)
        with pytest.raises(OutputError, match=r"cannot look for job\.json: "):
            there.exists("job.json")
        with pytest.raises(OutputError, match=r"cannot list images/: "):
            there.list("images")
        with pytest.raises(OutputError, match=r"cannot write x \(1 bytes\): "):
            there.write("x", b"x")
        with pytest.raises(SourceError, match="cannot be read"):
            open_source("s3://photos/2024", options=there.options, attempts=2)
        found = open_source("s3://photos/2024", options=s3.options, attempts=2)
        with pytest.raises(SourceError, match=r"s3://photos/2024: listing it keeps failing: .*again later"):
            expand(replace(found, options=there.options), list(found.roots), max_units=10)
        assert trouble.asked < 5 * 2 * 15, "attempts multiply"
    said = [r.getMessage() for r in caplog.records]
    assert any("look for job.json: try 1 of 2 failed" in line for line in said)
    assert not any("try 2 of 2" in line for line in said)


def test_pages_that_cannot_be_counted_for_the_moment_are_not_left_out_of_the_plan(s3, store, tmp_path):
    pages = [Image.new("L", (4, 4), shade) for shade in range(3)]
    data = io.BytesIO()
    pages[0].save(data, "TIFF", save_all=True, append_images=pages[1:])
    store.write("stack.tif", data.getvalue())
    (tmp_path / "list.txt").write_text(f"{store.url}/stack.tif\n")
    source = open_source(str(tmp_path / "list.txt"), options=s3.options, attempts=2)
    assert [u.page for units in read_manifest(source) for u in units] == [0, 1, 2]
    with flaky(s3, share=1.0, seed=4) as (behind, _):
        broken = replace(source, options=behind.options | {"config_kwargs": {"retries": {"total_max_attempts": 1}}})
        with pytest.raises(SourceError, match=r"stack\.tif: reading its header keeps failing: .*again later"):
            list(read_manifest(broken))


def _walk(source, options, **more):
    found = open_source(source, options=options, **more)
    roots, units = list(found.roots), []
    while roots:
        step = expand(found, roots, max_units=30)
        units, roots = units + step.units, step.folders
    return units
