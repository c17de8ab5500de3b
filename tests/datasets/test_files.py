"""Names are joined for folders and URLs alike, and writing never destroys what was there."""

from __future__ import annotations

import pytest

from rayseg.datasets.files import join, local_folder, read_json, read_lines, write_new
from rayseg.errors import DatasetError


@pytest.mark.parametrize(
    "root, name, wanted",
    [
        ("data", "a.png", "data/a.png"),
        ("data/images", "../photos/a.png", "data/photos/a.png"),
        ("/data", "/other/a.png", "/other/a.png"),
        ("/data", "s3://bucket/a.png", "s3://bucket/a.png"),
        ("s3://bucket/set/images", "../photos/a.png", "s3://bucket/set/photos/a.png"),
        ("s3://bucket", "a.png", "s3://bucket/a.png"),
        ("data", "sub\\a.png", "data/sub/a.png"),
        ("", "a.png", "a.png"),
        ("data", "", "data"),
    ],
)
def test_names_are_joined(root, name, wanted):
    assert join(root, name) == wanted


def test_every_earlier_content_is_kept(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("0")
    kept = [write_new(path, str(i)) for i in range(1, 5)]
    assert [k.name for k in kept] == ["list.txt.bak", "list.txt.bak.1", "list.txt.bak.2", "list.txt.bak.3"]
    assert [k.read_text() for k in kept] == ["0", "1", "2", "3"]
    assert path.read_text() == "4"
    assert len(list(tmp_path.iterdir())) == 5


def test_an_older_backup_is_never_overwritten(tmp_path):
    (tmp_path / "a.json").write_text("new")
    (tmp_path / "a.json.bak").write_text("precious")
    assert write_new(tmp_path / "a.json", "newer").name == "a.json.bak.1"
    assert (tmp_path / "a.json.bak").read_text() == "precious"


def test_the_same_content_again_makes_no_backup(tmp_path):
    assert write_new(tmp_path / "sub" / "a.json", "x") is None
    assert write_new(tmp_path / "sub" / "a.json", "x") is None
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.json"]


@pytest.mark.parametrize("data, message", [(b"{", "not JSON"), (b"\xff\xfe\x00", "not JSON"), (b"[" * 100_000, "not JSON")])
def test_a_file_that_is_not_json_is_named(tmp_path, data, message):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DatasetError, match=rf"a\.json: {message}"):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx\r\n\r\n y \r\n")
    assert read_json(tmp_path / "a.json") == {}
    assert read_lines(tmp_path / "a.txt") == [(1, "x"), (3, "y")]


def test_folders_to_change_must_be_local_and_there(tmp_path):
    with pytest.raises(DatasetError, match="split works on local folders"):
        local_folder("s3://bucket/set", "split")
    with pytest.raises(DatasetError, match="no such folder"):
        local_folder(tmp_path / "none", "split")
