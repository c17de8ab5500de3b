"""The fake: the same pixels give the same objects, and faults happen when they are asked for."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from rayseg import rle
from rayseg.errors import BackendError, ModelError
from rayseg.geometry import Size
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor


def two_blobs(height: int = 40, width: int = 60) -> np.ndarray:
    """A red square and a blue bar on black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[5:15, 10:20] = (255, 140, 0)
    image[30:34, 8:50] = (0, 190, 255)
    return image


def test_blobs_become_objects_with_their_own_pixels():
    (found,) = Predictor(fake_spec(labels=("red", "green", "blue"))).predict([two_blobs()])
    assert found.class_ids.tolist() == [0, 2]
    np.testing.assert_array_equal(found.boxes_xyxy, np.float32([[10, 5, 20, 15], [8, 30, 50, 34]]))
    assert [mask.area for mask in found.masks] == [100, 168]
    assert found.scores.tolist() == [1.0, 1.0]
    assert rle.decode(found.masks[0])[5:15, 10:20].all()


def test_the_same_pixels_give_the_same_objects():
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    first, again = (Predictor(fake_spec()).predict([noise], threshold=0.0)[0] for _ in range(2))
    assert len(first) > 10
    assert first.masks == again.masks
    np.testing.assert_array_equal(first.scores, again.scores)


def test_a_black_image_has_no_objects():
    (found,) = Predictor(fake_spec()).predict([np.zeros((9, 9, 3), np.uint8)], threshold=0.0)
    assert len(found) == 0


def test_resized_images_give_objects_of_the_original_size():
    (found,) = Predictor(fake_spec(size=Size(20, 30))).predict([two_blobs()])
    assert found.size == Size(40, 60)
    assert [mask.area for mask in found.masks] == [100, 168]


def test_brightness_decides_the_class_of_a_pixel():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 2:4], image[:, 4:] = 100, 255
    (found,) = Predictor(fake_spec("semantic", labels=("dark", "grey", "bright"))).predict([image])
    assert found.labels.tolist() == [[0, 0, 1, 1, 2, 2]] * 4


def test_the_cheap_pattern_finds_one_box_in_anything():
    (found,) = Predictor(fake_spec(pattern="box")).predict([np.zeros((8, 8, 3), np.uint8)])
    assert found.boxes_xyxy.tolist() == [[2, 2, 6, 6]] and found.masks[0].area == 16


@pytest.mark.parametrize("task", ["instance", "semantic"])
def test_a_string_says_all(task):
    spec = load_model_dir(f"fake:{task}?labels=a,b&size=64x96&delay_ms=3&kill_on=1,2,3&draw_threshold=0.25")
    assert (spec.task, spec.labels, spec.fixed_input) == (task, ("a", "b"), Size(64, 96))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert load_model_dir(spec.path) == spec
    built = fake_spec(task, labels=("a", "b"), size=Size(64, 96), delay_ms=3, kill_on=(1, 2, 3), draw_threshold=0.25)
    assert built.labels == spec.labels and built.steps == spec.steps


def test_another_script_is_another_model():
    assert load_model_dir("fake:instance").fingerprint != load_model_dir("fake:instance?delay_ms=1").fingerprint


@pytest.mark.parametrize(
    "path, message",
    [
        ("fake:panoptic", "fake:instance or fake:semantic"),
        ("fake:instance?colour=1", "unknown parameter 'colour'; known: labels, size"),
        ("fake:instance?size=big", "size='big' cannot be read"),
        ("fake:instance?kill_on=1,2", "kill_on='1,2' cannot be read"),
        ("fake:instance?pattern=stars", "expected blobs, box or colours"),
    ],
)
def test_a_malformed_script_is_refused(path, message):
    with pytest.raises(ModelError, match=message):
        load_model_dir(path)


def test_fake_models_and_the_fake_backend_go_together(model_dirs):
    with pytest.raises(BackendError, match="go together"):
        Predictor(fake_spec(), "paddle")
    with pytest.raises(BackendError, match="go together"):
        Predictor(load_model_dir(model_dirs["instance", "lean"]), "fake")


def marked(corner) -> np.ndarray:
    image = two_blobs()
    image[0, 0] = corner
    return image


def test_a_scripted_exception_hits_its_image_alone():
    predictor = Predictor(fake_spec(raise_on=(1, 2, 3)))
    with pytest.raises(RuntimeError, match="first pixel is \\(1, 2, 3\\)"):
        predictor.predict([marked((1, 2, 3))])
    assert len(predictor.predict([marked((1, 2, 4))])[0]) == 2


def test_a_delay_is_taken_for_each_image():
    predictor = Predictor(fake_spec("semantic", delay_ms=20))
    start = time.monotonic()
    predictor.predict([two_blobs()] * 3)
    assert time.monotonic() - start >= 0.06  # sleep never returns early


def run_alone(script: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


KILLER = """
    import numpy as np
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.predictor import Predictor
    predictor = Predictor(load_model_dir("fake:instance?{fault}=9,9,9"))
    print("ready", flush=True)
    predictor.predict([np.full((4, 4, 3), 9, np.uint8)])
"""


def test_a_scripted_kill_takes_the_process():
    ended = run_alone(KILLER.format(fault="kill_on"))
    assert ended.returncode == -signal.SIGKILL and ended.stdout == "ready\n"


def test_a_scripted_hang_does_not_come_back():
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_alone(KILLER.format(fault="hang_on"), timeout=3)
    assert caught.value.stdout == b"ready\n"


def test_a_whole_prediction_needs_no_paddle():
    ended = run_alone(
        KILLER.format(fault="raise_on").replace("9,9,9", "1,1,1") + "\n    import sys; print('paddle' in sys.modules)"
    )
    assert ended.stdout == "ready\nFalse\n"


def test_a_busy_fake_takes_its_share_of_a_core():
    predictor = Predictor(fake_spec(busy_ms=20))
    before = time.thread_time()
    predictor.predict([two_blobs(), two_blobs()])
    assert time.thread_time() - before >= 0.04
