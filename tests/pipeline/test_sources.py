"""What the user names becomes units: each file once, odd names intact, hidden files and the output left out."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayseg.errors import ConfigError, SourceError
from rayseg.pipeline.sources import expand, open_source, read_manifest, to_path, to_uri
from rayseg.pipeline.storage import filesystem

ODD = [
    "a b.png",
    "q\"uote'.png",
    "new\nline.png",
    "图像.png",
    "tab\t.png",
    "%41.png",
    "#1.png",
    "a[1].png",
    "-.png",
    "ümlaut.png",
]


def _all(source, **options):
    found = open_source(source, **options)
    if found.kind == "manifest":
        return [u for units in read_manifest(found) for u in units]
    roots, units = list(found.roots), []
    while roots:
        step = expand(found, roots, max_units=3)
        units, roots = units + step.units, step.folders
    return units


def _touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def test_a_folder_is_walked_and_every_file_is_found_once(tmp_path):
    wanted = {_touch(tmp_path / folder / name) for folder in ("", "a", "a/b", "c c") for name in ("x.png", *ODD, "notes.txt")}
    units = _all(str(tmp_path))
    assert sorted(u.uri for u in units) == sorted(wanted)
    assert all(u.bytes == 1 and u.version for u in units)
    assert len({u.unit_id for u in units}) == len(units)


def test_hidden_files_and_the_output_are_left_out(tmp_path):
    wanted = _touch(tmp_path / "x.png")
    _touch(tmp_path / ".DS_Store")
    _touch(tmp_path / ".cache" / "y.png")
    _touch(tmp_path / "out" / "report.html")
    assert [u.uri for u in _all(str(tmp_path), out=str(tmp_path / "out"))] == [wanted]


def test_a_name_that_is_not_utf8_survives_as_a_file_url(tmp_path):
    raw = os.fsencode(str(tmp_path)) + b"/caf\xe9%41.png"
    with open(raw, "wb") as file:
        file.write(b"abc")
    (unit,) = _all(str(tmp_path))
    assert unit.uri.startswith("file:///")
    fs = filesystem(unit.uri)
    assert fs.cat_file(to_path(fs, unit.uri)) == b"abc"


def test_uris_and_paths_are_inverse():
    fs = filesystem("/a")
    for name in [f"/a/{n}" for n in ODD]:
        assert to_path(fs, to_uri(fs, name)) == name


def test_a_glob_takes_what_matches_and_a_real_name_with_brackets_wins(tmp_path):
    for name in ("a/1.png", "a/2.jpg", "b/c/3.png", "a[1].png"):
        _touch(tmp_path / name)
    names = {os.path.relpath(u.uri, tmp_path) for u in _all(f"{tmp_path}/**/*.png")}
    assert names == {"a/1.png", "b/c/3.png", "a[1].png"}
    assert {os.path.relpath(u.uri, tmp_path) for u in _all(f"{tmp_path}/a/*")} == {"a/1.png", "a/2.jpg"}
    assert [u.uri for u in _all(f"{tmp_path}/a[1].png")] == [f"{tmp_path}/a[1].png"]


def test_one_file_is_a_source(tmp_path):
    path = _touch(tmp_path / "x.png")
    assert [u.uri for u in _all(path)] == [path]


def test_a_folder_that_links_to_itself_ends(tmp_path):
    _touch(tmp_path / "a" / "x.png")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "broken.png")
    assert sorted(os.path.basename(u.uri) for u in _all(str(tmp_path))) == ["broken.png", "x.png"]


def test_the_pages_of_a_tiff_are_units_of_their_own(tmp_path):
    pages = [Image.new("L", (4, 4), i) for i in range(3)]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    _touch(tmp_path / "broken.tif", b"II*\0")
    units = _all(str(tmp_path))
    assert sorted((os.path.basename(u.uri), u.page) for u in units) == [
        ("broken.tif", 0),
        ("m.tif", 0),
        ("m.tif", 1),
        ("m.tif", 2),
    ]
    assert len({u.unit_id for u in units}) == 4


@pytest.mark.parametrize("suffix", ["txt", "csv", "parquet"])
def test_a_manifest_lists_paths_relative_to_itself(tmp_path, suffix):
    paths = ["x y.png", f"{tmp_path}/b/图.png", "s3://bucket/key.png"]
    file = tmp_path / f"list.{suffix}"
    if suffix == "txt":
        file.write_text("\n".join(paths) + "\n\n", encoding="utf-8")
    elif suffix == "csv":
        file.write_text("id,path\n" + "\n".join(f'1,"{p}"' for p in paths), encoding="utf-8")
    else:
        pq.write_table(pa.table({"id": [1, 2, 3], "path": paths}), file)
    assert [u.uri for u in _all(str(file))] == [f"{tmp_path}/x y.png", f"{tmp_path}/b/图.png", "s3://bucket/key.png"]


def test_the_column_of_a_manifest_can_be_named(tmp_path):
    pq.write_table(pa.table({"left": ["/a.png"], "right": ["/b.png"]}), tmp_path / "m.parquet")
    assert [u.uri for u in _all(f"{tmp_path}/m.parquet", column="right")] == ["/b.png"]
    with pytest.raises(SourceError, match=r"no column 'rigth'; did you mean 'right'"):
        _all(f"{tmp_path}/m.parquet", column="rigth")
    with pytest.raises(SourceError, match="--manifest-column"):
        _all(f"{tmp_path}/m.parquet")
    with pytest.raises(ConfigError, match="is not a"):
        open_source(str(tmp_path), column="path")


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SourceError, match=r"m\.parquet: cannot read the manifest"):
        _all(f"{tmp_path}/m.parquet")


def test_what_is_not_there_is_named_with_a_remedy(tmp_path):
    with pytest.raises(SourceError, match=r"nope: there is no such file or folder"):
        open_source(f"{tmp_path}/nope")
    with pytest.raises(SourceError, match="cannot open nosuch://"):
        open_source("nosuch://x")
