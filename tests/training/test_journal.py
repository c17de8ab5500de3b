"""What a run writes about itself can be read by people, tables, TensorBoard and the run that goes on."""

from __future__ import annotations

import csv
import json
import math
import struct

import cv2
import pytest
from tensorboardX.proto.event_pb2 import Event  # comes with ray[tune]

from rayseg.training.curves import draw_curves, panel
from rayseg.training.journal import Journal, describe
from rayseg.training.tensorboard import ScalarWriter, crc32c
from tests.training.toys import ToyData, plan_of, run


def unmask(value: int) -> int:
    rotated = (value - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


def events_of(path) -> list[Event]:
    """What TensorBoard reads: records whose sums fit, each a protobuf message of its own schema."""
    data, out = path.read_bytes(), []
    while data:
        (length, sum_of_length), rest = struct.unpack("<QI", data[:12]), data[12:]
        assert unmask(sum_of_length) == crc32c(data[:8])
        body, (sum_of_body,) = rest[:length], struct.unpack("<I", rest[length : length + 4])
        assert unmask(sum_of_body) == crc32c(body)
        out.append(Event.FromString(body))
        data = rest[length + 4 :]
    return out


@pytest.mark.parametrize(
    "data, wanted",
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (b"", 0)],
)
def test_crc32c_gives_the_sums_of_the_standard(data, wanted):
    assert crc32c(data) == wanted


def test_scalars_are_read_back_from_the_event_file(tmp_path):
    writer = ScalarWriter(tmp_path, purge_from=300)
    writer.add(300, {"loss": 0.5, "größe": 3.0})
    writer.add(2**40, {"loss": -1e-3})
    version, start, first, second = events_of(writer.path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (300, 1)
    assert {value.tag: value.simple_value for value in first.summary.value} == {"loss": 0.5, "größe": 3.0}
    assert second.step == 2**40 and second.summary.value[0].simple_value == pytest.approx(-1e-3)


def test_a_run_leaves_the_same_numbers_in_all_its_files(tmp_path):
    told: list = []
    run(tmp_path, events=told)
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == told
    scores = [event["score"] for event in told if event["event"] == "evaluated"]
    with (tmp_path / "history.csv").open() as file:
        assert [float(row["score"]) for row in csv.DictReader(file)] == scores
    (board,) = (tmp_path / "tensorboard").iterdir()
    values = [(e.step, v.tag, v.simple_value) for e in events_of(board) for v in e.summary.value]
    assert [v for _, tag, v in values if tag == "evaluate/score"] == pytest.approx(scores)
    losses = [(event["step"], event["loss"]) for event in told if event["event"] == "step"]
    assert [(step, pytest.approx(v)) for step, tag, v in values if tag == "train/loss"] == losses
    assert len((tmp_path / "train.log").read_text().splitlines()) == len(told)
    assert cv2.imread(str(tmp_path / "curves.png")).shape[0] == 340


def test_steps_that_are_taken_again_are_told_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plan_of(log_interval=1), data=ToyData(cut_at=(3, 1)))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"event": "step", "ep')  # cut by a kill
    run(tmp_path, plan_of(log_interval=1))
    events = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 19))
    first, second = sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert events_of(second)[1].step == 7 and events_of(first)


def test_a_line_of_the_log_says_where_and_what():
    event = {"event": "step", "epoch": 2, "step": 40, "progress": 0.25, "seconds": 12.2, "rate": 0.001, "loss": 1.23456789}
    assert describe(event) == "epoch 2 step 40 (25.0%, 12 s) step rate=0.001 loss=1.2346"


def test_curves_of_one_point_of_equal_values_and_of_no_numbers_can_be_drawn(tmp_path):
    events = [{"event": "step", "step": 1, "epoch": 0, "loss": math.nan, "rate": 0.1, "loss_b": 2.0}]
    draw_curves(events, tmp_path / "one.png")
    assert cv2.imread(str(tmp_path / "one.png")).shape[1] == 2 * 460
    draw_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_falling_line_falls_in_the_picture():
    picture = panel("loss", {"loss": ([0.0, 100.0], [2.0, 1.0])})
    coloured = (picture.max(axis=2).astype(int) - picture.min(axis=2)) > 60
    coloured[:60, 300:] = False  # the legend
    left, right = (coloured[:, part].nonzero()[0].mean() for part in (slice(75, 130), slice(390, 446)))
    assert left < right


def test_a_journal_that_starts_anew_forgets_an_earlier_run(tmp_path):
    (tmp_path / "history.jsonl").write_text('{"event": "step", "step": 5, "epoch": 0}\n')
    Journal(tmp_path)
    assert (tmp_path / "history.jsonl").read_text() == ""
