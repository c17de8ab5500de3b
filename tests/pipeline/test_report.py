"""The report says what the tables say, shows the pictures it promises, and is one safe file."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from rayseg.errors import OutputError
from rayseg.geometry import Size
from rayseg.pipeline.report import markup, query, write_report
from rayseg.pipeline.report.picks import Picks
from rayseg.pipeline.report.tally import tally
from rayseg.pipeline.storage import Store
from rayseg.results import Instances, SemanticMap
from rayseg.tables import Unit, images_table
from tests.pipeline.handmade import Done, discs, run_note, write_chunk, write_image, write_out

SIZE = Size(48, 64)


class Page(HTMLParser):
    """Tags, text and pictures of a page; fails where tags do not nest."""

    VOID = ("meta", "img", "input", "line", "rect", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.open, self.tags, self.text, self.images = html, [], [], "", []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if "style" in self.open else data

    def pictures(self) -> list[np.ndarray]:
        parts = [src.removeprefix("data:image/jpeg;base64,") for src in self.images]
        return [cv2.imdecode(np.frombuffer(base64.b64decode(p), np.uint8), cv2.IMREAD_COLOR_RGB) for p in parts]


def report(out: Path, **options) -> Page:
    return Page(Path(write_report(Store(str(out)), **options)).read_text(encoding="utf-8"))


def images_done(folder: Path, n: int, *, objects=lambda i: 2 + i, **kinds) -> list[Done]:
    units = [write_image(folder / f"{i:03d}.png", SIZE, seed=i) for i in range(n)]
    return [Done(unit, discs(SIZE, objects(i), seed=i, **kinds)) for i, unit in enumerate(units)]


def test_totals_do_not_depend_on_how_rows_are_cut_into_commits(tmp_path):
    done = [Done(Unit(f"/{i}.png"), discs(SIZE, i % 5, seed=i, n_classes=3)) for i in range(23)]
    done += [Done(Unit(f"/bad{i}.png"), ("decode", f"bad{i}.png: cut after {i} bytes")) for i in range(4)]
    sums = []
    for chunk_images in (1, 7, 100):
        out = write_out(tmp_path / str(chunk_images), done, labels=["a", "b", "c"], chunk_images=chunk_images)
        sums.append(tally(Store(str(out)), Picks(sample=5, extremes=2)))
    for other in sums[1:]:
        for name in ("ok", "failed", "objects", "empty", "pixels", "failures", "stage_images"):
            assert getattr(other, name) == getattr(sums[0], name)
        for name in ("scores", "areas", "objects_per_image"):
            assert (getattr(other, name) == getattr(sums[0], name)).all()
        assert (other.classes.images == sums[0].classes.images).all()
        chosen, wanted = other.picks.chosen(), sums[0].picks.chosen()
        assert {k: [p.unit_id for p in v] for k, v in chosen.items()} == {k: [p.unit_id for p in v] for k, v in wanted.items()}


def test_totals_are_those_of_the_rows(tmp_path):
    done = [Done(Unit(f"/{i}.png"), discs(SIZE, i % 5, seed=i, n_classes=3)) for i in range(23)]
    out = write_out(tmp_path, done, labels=["a", "b", "c"])
    sums = tally(Store(str(out)), Picks(sample=5, extremes=2))
    results = [d.result for d in done]
    assert (sums.ok, sums.objects, sums.empty) == (23, sum(map(len, results)), 5)
    assert sums.objects_per_image.tolist() == [5, 5, 5, 4, 4]
    scores = np.concatenate([r.scores for r in results])
    assert (sums.scores == np.histogram(scores, bins=40, range=(0, 1))[0]).all()
    areas = [mask.area for r in results for mask in r.masks]
    assert (sums.areas == np.histogram(areas, bins=2.0 ** (np.arange(81) / 2))[0]).all()
    for c in range(3):
        assert sums.classes.objects[c] == sum((r.class_ids == c).sum() for r in results)
        assert sums.classes.images[c] == sum((r.class_ids == c).any() for r in results)
    assert sums.stage_seconds["decode"] == pytest.approx(23 * 0.02) and sums.stage_images["decode"] == 23


@pytest.mark.parametrize("gallery", [1, 4, 12])
def test_no_image_is_shown_twice_and_extremes_are_extreme(tmp_path, gallery):
    done = [Done(Unit(f"/{i:03d}.png"), discs(SIZE, 1 + i % 17, seed=i)) for i in range(60)]
    out = write_out(tmp_path, done, labels=["cell"])
    extremes = -(-gallery // 3)
    chosen = tally(Store(str(out)), Picks(sample=gallery, extremes=extremes)).picks.chosen()
    shown = [pick for group in chosen.values() for pick in group]
    assert len({pick.unit_id for pick in shown}) == len(shown) == gallery + 2 * extremes
    most = sorted((len(d.result) for d in done), reverse=True)[:extremes]
    assert [pick.n_objects for pick in chosen["densest"]] == most
    taken = {pick.uri for pick in chosen["densest"]}
    means = sorted(float(d.result.scores.mean()) for d in done if d.unit.uri not in taken)
    assert [pick.mean_score for pick in chosen["least_sure"]] == pytest.approx(means[:extremes], abs=1e-6)


def test_the_seed_alone_decides_the_sample():
    rows = [Done(Unit(f"/{i}.png"), Instances.none(SIZE)) for i in range(200)]
    samples = []
    for seed, order in ((1, 1), (1, -1), (2, 1)):
        picks = Picks(sample=10, extremes=2, seed=seed)
        for item in rows[::order]:
            picks.add("chunk", images_table([_ledger_row(item)]), {})
        samples.append([p.uri for p in picks.chosen()["sample"]])
    assert samples[0] == samples[1] != samples[2]


def _ledger_row(item: Done):
    from rayseg.tables import OK, LedgerRow

    return LedgerRow(item.unit.unit_id, item.unit.uri, 0, OK, width=SIZE.width, height=SIZE.height)


def test_a_finished_job_is_called_complete_and_its_pictures_are_there(tmp_path):
    out = write_out(tmp_path / "out", images_done(tmp_path / "in", 6), labels=["cell"], runs=[run_note(6, wall_s=3)])
    page = report(out)
    assert "Complete. 6 images planned and segmented, none failed." in page.text
    assert "All images" in page.text and "000.png" in page.text and "2images a second" in page.text
    pictures = page.pictures()
    assert [p.shape for p in pictures] == [(450, 600, 3)] * 6


def test_overlays_show_the_masks_of_the_tables(tmp_path):
    unit = write_image(tmp_path / "in/a.png", SIZE)
    cv2.imwrite(unit.uri, np.zeros((*SIZE.hw, 3), np.uint8))
    result = discs(SIZE, 1, seed=4)
    out = write_out(tmp_path / "out", [Done(unit, result)], labels=["cell"])
    (picture,) = report(out).pictures()
    from rayseg import rle

    mask = cv2.resize(rle.decode(result.masks[0]).astype(np.uint8), (600, 450), interpolation=cv2.INTER_NEAREST)
    inner, outer = cv2.erode(mask, np.ones((25, 25))), cv2.dilate(mask, np.ones((25, 25)))
    assert inner.any() and (picture.max(axis=2)[inner > 0] > 40).all()
    assert (picture.max(axis=2)[outer == 0] < 40).all()


def test_an_unfinished_job_says_how_much_is_left_and_why_images_failed(tmp_path):
    done = images_done(tmp_path / "in", 3)
    done += [Done(Unit(f"/x/{i}.jpg"), ("decode", f"{i}.jpg: ends after {i * 10} bytes")) for i in range(1000, 1005)]
    done += [Done(Unit("/x/q.jpg"), ("fetch", "PermissionError: denied"))]
    out = write_out(tmp_path / "out", done, labels=["cell"], left=[Unit("/x/z1.jpg"), Unit("/x/z2.jpg")])
    page = report(out)
    assert "Not finished. 2 images left (18%)" in page.text and "6 images failed" in page.text
    assert "…: ends after … bytes" in page.text and "and 2 more" in page.text
    assert "PermissionError: denied" in page.text
    assert "No run has ended in good order yet" in page.text


def test_images_of_killed_runs_are_not_counted_into_the_pace(tmp_path):
    out = write_out(tmp_path / "o", images_done(tmp_path / "i", 6), labels=["cell"], runs=[run_note(4, wall_s=8)])
    (out / "runs/0009.json").write_text('{"started": "2026-')
    page = report(out)
    assert "0.5images a second" in page.text and "2 images more by runs that were killed" in page.text


def test_reasons_without_number_are_counted_in_memory_that_does_not_grow(tmp_path):
    words = ["".join(chr(97 + (i // 26**k) % 26) for k in range(3)) for i in range(700)]
    done = [Done(Unit(f"/x/{i}.jpg"), ("decode", f"trouble {word}")) for i, word in enumerate(words)]
    out = write_out(tmp_path, done, labels=["cell"], chunk_images=100)
    failures = tally(Store(str(out)), Picks(sample=1, extremes=1)).failures
    assert len(failures) == 501 and sum(f.count for f in failures.values()) == 700
    assert failures["decode", "other reasons"].count == 200
    assert "471 more reasons for 471 images." in report(out).text


def test_the_most_frequent_classes_are_listed_with_their_own_numbers(tmp_path):
    found = discs(SIZE, 110, seed=3, n_classes=24)
    labels = [f"<{i}>" for i in range(26)]
    page = report(write_out(tmp_path, [Done(Unit("/a.png"), found)], labels=labels))
    counts = np.bincount(found.class_ids, minlength=26)
    most = int(counts.argmax())
    score = found.scores[found.class_ids == most].mean()
    assert f"<{most}>{counts[most]}{markup.share(counts[most], 110)}1{score:.2f}" in page.text
    found, unseen = (counts > 0).sum(), (counts == 0).sum()
    assert found > 21 and unseen > 1
    assert f"{found - 20} classes more with fewer; {unseen} classes of the model never found." in page.text


def test_damage_is_named_and_costs_only_its_own_files(tmp_path):
    out = write_out(tmp_path / "o", images_done(tmp_path / "i", 9), labels=["cell"], chunk_images=3)
    cut, orphan = min((out / "objects").iterdir()), sorted((out / "images").iterdir())[1]
    cut.write_bytes(cut.read_bytes()[:200])
    orphan.unlink()
    page = report(out)
    assert "Damaged." in page.text and "rayseg verify" in page.text and cut.name in page.text
    assert "3images segmented" in page.text


def test_more_rows_than_planned_are_not_called_complete(tmp_path):
    done = images_done(tmp_path / "i", 3)
    out = write_out(tmp_path / "o", done, labels=["cell"])
    write_chunk(out, "00-00000-00009-twice", done[:1], ["cell"])
    assert "more finished images than planned" in report(out).text


NASTY = [
    "<script>alert(1)<",
    "quote\"'&amp;.png",
    "line\nbreak\t.png",
    "细胞 核.png",
    "\u202egnp.exe",
    "b<img src=x>.png",
]


def test_names_and_reasons_cannot_become_markup(tmp_path):
    done = []
    for i, name in enumerate(NASTY):
        done.append(Done(write_image(tmp_path / f"in{i}" / name, SIZE), discs(SIZE, 2, seed=i, n_classes=2)))
        done.append(Done(Unit(f"/failed{i}/{name}"), ("fetch", f"{name} <script>x</script> {'x' * i}")))
        done.append(Done(Unit(f"/gone{i}/{name}"), discs(SIZE, 1)))
    labels = ["</style><script>y</script>", '"><b onclick=z>']
    out = write_out(tmp_path / "o<script>u", done, labels=labels, source="s3://me:pass@b/<script>w", settings={"a<b": "<i>"})
    page = report(out, gallery=30)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "link")]
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert all(src.startswith("data:image/jpeg;base64,") for src in page.images) and len(page.images) == len(NASTY)
    assert "<script>alert(1)<" in page.text and "细胞 核.png" in page.text and "line\\nbreak\\t.png" in page.text
    assert "\u202e" not in page.html and "me:pass" not in page.html


def test_the_page_asks_the_network_for_nothing(tmp_path):
    out = write_out(tmp_path / "out", images_done(tmp_path / "in", 3), labels=["cell"])
    page = report(out)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    targets = [v for _, a in page.tags for k, v in a.items() if k in ("href", "src", "srcset", "action", "data")]
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"url\(|@import", page.html)


def test_a_gallery_of_noise_stays_below_five_megabytes(tmp_path):
    rng, done = np.random.default_rng(0), []
    for i in range(40):
        path = tmp_path / f"in/{i}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (600, 600, 3), dtype=np.uint8))
        done.append(Done(Unit(str(path)), discs(Size(600, 600), 1, seed=i)))
    out = write_out(tmp_path / "out", done, labels=["cell"])
    page = report(out, gallery=30)
    assert len(page.images) == 40 and len(page.html) < 5_000_000


def test_an_image_that_changed_or_vanished_leaves_a_place_with_the_reason(tmp_path):
    done = images_done(tmp_path / "in", 3)
    Path(done[0].unit.uri).unlink()
    Path(done[1].unit.uri).write_bytes(b"no image")
    write_image(Path(done[2].unit.uri), Size(10, 10))
    page = report(write_out(tmp_path / "out", done, labels=["cell"]))
    assert page.images == [] and page.text.count("Cannot be shown") == 3
    assert "the image is no longer there" in page.text and "10 × 10 pixels: it was replaced after the job" in page.text


def test_a_semantic_job_speaks_of_classes_and_has_no_scores(tmp_path):
    labels = [np.zeros(SIZE.hw, np.uint8) for _ in range(6)]
    for i, m in enumerate(labels):
        m[:, : 10 * i] = i
        m[:5] = 1
    units = [write_image(tmp_path / f"in/{i}.png", SIZE, seed=i) for i in range(6)]
    done = [Done(unit, SemanticMap(m)) for unit, m in zip(units, labels, strict=True)]
    names = ["background", "road", "car", "tree", "sky", "pole"]
    page = report(write_out(tmp_path / "out", done, labels=names, task="semantic"), gallery=3)
    assert "Most classes" in page.text and "Classes per image" in page.text
    assert "Scores" not in page.text and "mean score" not in page.text and "Lowest confidence" not in page.text
    assert len(page.images) == 4


@pytest.mark.parametrize("state", ["planned only", "all failed", "nothing found"])
def test_a_job_without_objects_has_a_report(tmp_path, state):
    done = {
        "planned only": [],
        "all failed": [Done(Unit("/a"), ("fetch", "gone")), Done(Unit("/b"), ("fetch", "gone"))],
        "nothing found": [Done(write_image(tmp_path / "a.png", SIZE), Instances.none(SIZE))],
    }[state]
    page = report(write_out(tmp_path / "out", done, labels=["a", "b"], left=[] if done else [Unit("/z")]))
    words = {
        "planned only": "1 image left (100%)",
        "all failed": "2 images failed (100%)",
        "nothing found": "Nothing so",
    }
    assert words[state] in page.text


def test_a_folder_that_is_no_output_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"no job\.json there"):
        write_report(Store(str(tmp_path)))
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(OutputError, match="not a rayseg job"):
        write_report(Store(str(tmp_path)))


def test_an_output_on_an_object_store_gets_its_report_there(tmp_path):
    import fsspec

    out = write_out(tmp_path / "out", images_done(tmp_path / "in", 3), labels=["cell"])
    fsspec.filesystem("memory").put(str(out), "/bucket/out", recursive=True)
    store = Store("memory://bucket/out")
    assert write_report(store) == "memory://bucket/out/report.html"
    assert len(Page(store.read("report.html").decode()).images) == 3


def test_the_lines_shown_for_duckdb_and_pandas_run_and_give_the_objects(tmp_path):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    done = [Done(Unit(f"/{i}.png"), discs(SIZE, 3, seed=i, n_classes=2)) for i in range(5)]
    out = query.where(Store(str(write_out(tmp_path / "it's out", done, labels=["a", "b"]))))
    rows = duckdb.sql(query.sql(out)).fetchall()
    for label, n, mean in rows:
        areas = [m.area for d in done for m, c in zip(d.result.masks, d.result.class_ids, strict=True) if "ab"[c] == label]
        assert (n, mean) == (len(areas), pytest.approx(np.mean(areas)))
    names: dict = {}
    exec(query.pandas(out), names)
    assert isinstance(names["objects"], pandas.DataFrame) and len(names["objects"]) == 15 and len(names["images"]) == 5
    assert names["pixels"].sum() == names["row"].area_px


def test_the_lines_of_the_readme_run(tmp_path):
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    out = write_out(tmp_path, [Done(Unit("/a.png"), discs(SIZE, 3))], labels=["cell"])
    lines = [line for line in readme.splitlines() if line.startswith(("duckdb.sql(", "pandas.read_parquet("))]
    results = [eval(line.replace("out/", f"{out}/"), {"duckdb": duckdb, "pandas": pandas}) for line in lines]
    assert [len(result) for result in results] == [1, 3]


def test_reading_results_needs_neither_ray_nor_paddle():
    code = "import sys, rayseg.pipeline.report, rayseg.pipeline.export_coco; print({'ray', 'paddle'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_shares_are_whole_only_when_they_are():
    assert markup.share(1, 10**6) == "<0.1%" and markup.share(10**6 - 1, 10**6) == "99.9%"
    assert markup.share(0, 5) == "0%" and markup.share(5, 5) == "100%" and markup.share(0, 0) == "0%"


def test_job_json_with_hidden_options_is_read_without_them(tmp_path):
    done = images_done(tmp_path / "in", 2)
    settings = {"source_options": {"secret": "(not stored)", "endpoint_url": "http://x"}}
    out = write_out(tmp_path / "out", done, labels=["cell"], settings=settings)
    page = report(out)
    assert "(not stored)" not in page.html and "http://x" not in page.html and len(page.images) == 2
    assert json.loads((out / "job.json").read_text())["settings"]["source_options"]
