"""What a directory says is read; what is missing, damaged, unknown or contradictory is refused with file and reason."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import textwrap

import pytest
import yaml

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.predict.model_dir import load_model_dir

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


@pytest.fixture
def copied(model_dirs, tmp_path):
    """A copy of an exported directory, with `change` applied to its yml."""

    def copy(task="instance", flavour="paddlex", change=None):
        out = tmp_path / f"{task}-{flavour}"
        shutil.copytree(model_dirs[task, flavour], out)
        if change:
            config = yaml.safe_load((out / "inference.yml").read_text())
            change(config)
            (out / "inference.yml").write_text(yaml.safe_dump(config, sort_keys=False))
        return out

    return copy


def test_an_instance_directory_says_all_about_itself(model_dirs):
    spec = load_model_dir(model_dirs["instance", "lean"])
    assert (spec.name, spec.task, spec.family, spec.flavour) == ("my-instance", "instance", "ppyoloe_seg", "lean")
    assert spec.labels == ("round", "long", "bent") and spec.draw_threshold == 0.5
    assert spec.inputs == ("image",) and spec.fixed_input == Size(96, 96) and spec.any_batch
    assert len(spec.fingerprint) == 64


def test_a_paddlex_program_takes_one_image_at_a_time(model_dirs):
    spec = load_model_dir(model_dirs["instance", "paddlex"])
    assert spec.flavour == "paddlex" and not spec.any_batch
    assert spec.inputs == ("im_shape", "image", "scale_factor")


def test_a_semantic_directory_takes_any_size(model_dirs):
    spec = load_model_dir(model_dirs["semantic", "paddlex"])
    assert (spec.task, spec.fixed_input, spec.any_batch) == ("semantic", None, True)
    assert spec.labels == ("sky", "land", "sea", "town", "road")


def test_a_semantic_directory_of_paddlex_has_no_names_so_they_are_counted(copied):
    spec = load_model_dir(copied("semantic", change=lambda c: c.pop("label_list")))
    assert spec.labels == tuple(f"class_{i}" for i in range(5))


def test_a_spec_survives_pickling_and_is_small(model_dirs):
    spec = load_model_dir(model_dirs["instance", "lean"])
    sent = pickle.dumps(spec)
    assert pickle.loads(sent) == spec and len(sent) < 2000


def test_the_fingerprint_follows_every_file(copied):
    found = []
    directory = copied()
    found.append(load_model_dir(directory).fingerprint)
    again = load_model_dir(directory).fingerprint
    params = directory / "inference.pdiparams"
    data = bytearray(params.read_bytes())
    data[-1] ^= 1
    params.write_bytes(data)
    found.append(load_model_dir(directory).fingerprint)
    with (directory / "inference.yml").open("a") as file:
        file.write("# a comment\n")
    found.append(load_model_dir(directory).fingerprint)
    with (directory / "inference.json").open("a") as file:
        file.write(" ")
    found.append(load_model_dir(directory).fingerprint)
    assert again == found[0] and len(set(found)) == 4


def test_reading_a_directory_changes_nothing_in_it(copied):
    directory = copied()
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in directory.rglob("*")}
    load_model_dir(directory)
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in directory.rglob("*")}


def test_any_name_will_do_for_a_known_arch(copied):
    def rename(config):
        config["Global"]["model_name"] = "MaskRCNN-of-my-own"

    assert load_model_dir(copied(change=rename)).name == "MaskRCNN-of-my-own"


def test_the_json_wins_over_an_older_program(copied):
    directory = copied()
    (directory / "inference.pdmodel").write_bytes(b"not a program")
    assert load_model_dir(directory).task == "instance"


def test_reading_a_directory_loads_neither_paddle_nor_opencv(model_dirs):
    script = f"""
        import sys
        from rayseg.predict.model_dir import load_model_dir
        load_model_dir({str(model_dirs["instance", "lean"])!r})
        print({{"paddle", "cv2", "ray"}} & set(sys.modules))
    """
    run = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == "set()"


# -- refused --


def test_a_path_that_is_no_directory(tmp_path):
    with pytest.raises(ModelError, match="nowhere: is not a model directory"):
        load_model_dir(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["inference.json", "inference.pdiparams", "inference.yml"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda file: file.unlink(), "is missing|neither inference.json nor inference.pdmodel"),
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(POINTER), "git-lfs pointer.*git lfs pull"),
        (
            lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
            "cut|valid YAML|damaged|label_list|Permute",
        ),
        (
            lambda file: file.write_bytes(b"\xff\xfe\x00\x01" * 20),
            "not valid YAML|not valid JSON|does not start a Paddle tensor",
        ),
    ],
    ids=["missing", "empty", "git-lfs pointer", "cut", "garbage"],
)
def test_a_file_that_is_not_whole(copied, name, damage, message):
    directory = copied()
    damage(directory / name)
    with pytest.raises(ModelError, match=message) as caught:
        load_model_dir(directory)
    assert name in str(caught.value)


def set_to(*path, value):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


def drop(key):
    return lambda config: config.pop(key)


@pytest.mark.parametrize(
    "task, change, message",
    [
        ("instance", set_to("arch", value="YOLO"), "arch 'YOLO', which is not a segmentation model we know"),
        ("instance", drop("arch"), "neither `arch`.*my-instance is not a segmentation model"),
        ("instance", drop("label_list"), "label_list must be a list of class names, got None"),
        (
            "instance",
            set_to("label_list", value=["a", "b"]),
            "label_list has 2 names, the program tells 3 classes apart",
        ),
        (
            "instance",
            set_to("label_list", value=["a", True, "c"]),
            "label_list holds True, which YAML reads as bool; put it in",
        ),
        ("instance", drop("draw_threshold"), r"draw_threshold must be a number in \[0, 1\], got None"),
        ("instance", set_to("draw_threshold", value=50), r"draw_threshold must be a number in \[0, 1\], got 50"),
        ("instance", drop("Preprocess"), "Preprocess: expected a list of operators, got None"),
        (
            "instance",
            set_to("Preprocess", 0, "target_size", value=[64, 64]),
            "makes an input of 64 x 64 .* takes 96 x 96 only",
        ),
        (
            "instance",
            set_to("rayseg", value={"family": "yolact", "flavour": "lean"}),
            "names no known family and flavour",
        ),
        ("semantic", set_to("Deploy", "output_op", value="softmax"), "output_op is 'softmax'; export .* argmax"),
        (
            "semantic",
            set_to("Deploy", "transforms", value=[{"type": "ResizeByShort"}]),
            "'ResizeByShort' is not supported",
        ),
        ("semantic", set_to("label_list", value=["a"]), "label_list has 1 names, the program tells 5 classes apart"),
    ],
)
def test_a_yml_that_cannot_be_honoured(copied, task, change, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_model_dir(copied(task, change=change))
    assert "inference.yml" in str(caught.value)


def test_a_classifiers_yml(copied):
    def classify(config):
        config.clear()
        config.update({"Global": {"model_name": "PP-LCNet_x1_0"}, "PreProcess": {}, "PostProcess": {"Topk": {"topk": 5}}})

    with pytest.raises(ModelError, match="PP-LCNet_x1_0 is not a segmentation model"):
        load_model_dir(copied(change=classify))


def test_a_program_of_another_kind(copied, model_dirs):
    directory = copied("instance", "paddlex")
    for name in ("inference.json", "inference.pdiparams"):
        shutil.copy(model_dirs["semantic", "paddlex"] / name, directory / name)
    with pytest.raises(ModelError, match=r"inference.json: gives integer .*; a paddlex ppyoloe_seg program gives bbox"):
        load_model_dir(directory)


def test_parameters_of_another_model(copied, model_dirs):
    directory = copied("instance")
    shutil.copy(model_dirs["semantic", "lean"] / "inference.pdiparams", directory)
    with pytest.raises(ModelError, match=r"inference.pdiparams: holds .* tensors, the program wants .* different models"):
        load_model_dir(directory)


def test_json_that_is_no_program(copied):
    directory = copied()
    (directory / "inference.json").write_text('{"images": []}')
    with pytest.raises(ModelError, match=r"inference.json: is JSON, but not a Paddle program"):
        load_model_dir(directory)


def test_yaml_that_would_run_code_is_not_run(copied, tmp_path):
    directory = copied()
    victim = tmp_path / "made"
    (directory / "inference.yml").write_text(
        f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{victim}']]"
    )
    with pytest.raises(ModelError, match="not valid YAML"):
        load_model_dir(directory)
    assert not victim.exists()


LEGACY = """
import sys, paddle
paddle.enable_static()
from paddle.base.layer_helper import LayerHelper
main, start = paddle.static.Program(), paddle.static.Program()
with paddle.static.program_guard(main, start):
    x = paddle.static.data("x", [None, 3, None, None], "float32")
    scores = paddle.nn.Conv2D(3, 5, 3, padding=1)(x)
    helper = LayerHelper("arg_max")
    labels = helper.create_variable_for_type_inference("int32")
    helper.append_op(type="arg_max", inputs={"X": scores}, outputs={"Out": labels}, attrs={"axis": 1, "dtype": 2})
    run = paddle.static.Executor(paddle.CPUPlace())
    run.run(start)
    paddle.static.save_inference_model(sys.argv[1], [x], [labels], run, program=main)
"""


@pytest.mark.slow
def test_an_older_program_is_read_and_runs(copied, pictures):
    import os

    from rayseg.predict.predictor import Predictor

    directory = copied("semantic")
    (directory / "inference.json").unlink()
    make = [sys.executable, "-c", LEGACY, str(directory / "inference")]
    subprocess.run(make, check=True, capture_output=True, env={**os.environ, "FLAGS_enable_pir_api": "0"})
    spec = load_model_dir(directory)
    assert len(spec.labels) == 5 and spec.inputs == ("x",)
    (found,) = Predictor(spec, "paddle").predict(pictures[:1])
    assert found.labels.shape == pictures[0].shape[:2]
    program = directory / "inference.pdmodel"
    program.write_bytes(program.read_bytes()[:-300])
    with pytest.raises(ModelError, match=r"inference.pdmodel: is not a whole Paddle program"):
        load_model_dir(directory)
