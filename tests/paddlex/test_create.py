"""From names, folders, YAML and PaddleX's many arguments to a model: which setting wins, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest

import rayseg
from rayseg.errors import BackendError, ConfigError, ModelError
from rayseg.paddlex.create import find_model_dir
from rayseg.paddlex.engines import choose_engine
from rayseg.paddlex.pipeline_file import NAMES, pipeline_text, read_pipeline
from rayseg.predict import devices
from rayseg.predict.devices import Device, find_devices, parse_devices

FAKE = "fake:instance?draw_threshold=0.25&pattern=colours&size=16x16"  # the size keeps loading fast
IMAGE = np.uint8([[(0, green, 1) for green in (10, 80, 150, 240)]]).repeat(4, axis=1).repeat(16, axis=0)  # scores 0.52 to 0.97


def count(model, **settings) -> int:
    (res,) = model.predict(IMAGE, **settings)
    return len(res["boxes"])


def config(**module):
    module = {"module_name": "instance_segmentation", "model_name": "fake-instance", "model_dir": FAKE, **module}
    return {"pipeline_name": "instance_segmentation", "SubModules": {"InstanceSegmentation": module}}


def test_predict_wins_over_create_over_yaml_over_the_model_directory():
    from_yaml = rayseg.create_pipeline(config(threshold=0.6), device="cpu")
    from_create = rayseg.create_pipeline(config(threshold=0.6), threshold=0.7, device="cpu")
    of_the_model = rayseg.create_pipeline(config(threshold=None), device="cpu")
    scores = [box["score"] for box in next(of_the_model.predict(IMAGE))["boxes"]]
    assert len(scores) == 4 and min(scores) > 0.25
    for model, threshold in ((from_yaml, 0.6), (from_create, 0.7)):
        assert count(model) == sum(score > threshold for score in scores)
        assert count(model, threshold=0.9) == sum(score > 0.9 for score in scores)
        assert count(model) == sum(score > threshold for score in scores), "a call's setting must not stick"
    assert len({count(of_the_model), count(from_yaml), count(from_create), count(from_yaml, threshold=0.9)}) == 4


def test_the_batch_size_of_a_call_does_not_stick(monkeypatch):
    sizes = []
    model = rayseg.create_pipeline(config(batch_size=3), device="cpu")
    inner = type(model._predictors[0]).run
    monkeypatch.setattr(
        type(model._predictors[0]), "run", lambda self, images, **k: (sizes.append(len(images)), inner(self, images, **k))[1]
    )
    list(model.predict([IMAGE] * 4, batch_size=2))
    list(model.predict([IMAGE] * 4))
    assert sizes == [2, 2, 3, 1]


@pytest.mark.parametrize(
    "target, size", [(None, (70, 90)), (-1, (70, 90)), (64, (64, 64)), ((64, 32), (32, 64)), ("64, 32", (32, 64))]
)
def test_a_semantic_network_sees_the_size_it_is_asked_to(target, size, monkeypatch):
    seen = []
    model = rayseg.create_model("fake-semantic", "fake:semantic", device="cpu", target_size=target)
    inner = type(model._predictors[0]._backend).run
    monkeypatch.setattr(
        type(model._predictors[0]._backend),
        "run",
        lambda self, inputs: (seen.append(inputs["image"].shape[2:]), inner(self, inputs))[1],
    )
    (res,) = model.predict(np.zeros((70, 90, 3), np.uint8))
    assert seen == [size] and res["pred"].shape == (1, 70, 90)


def test_a_keep_ratio_target_rounds_up_to_32():
    from rayseg.geometry import Size
    from rayseg.paddlex.target_size import with_target_size
    from rayseg.predict.backends.fake import fake_spec
    from rayseg.predict.preprocess import input_sizes

    spec = fake_spec("semantic")
    assert input_sizes(with_target_size(spec, 64).steps, Size(120, 160))[1] == Size(64, 64)
    assert input_sizes(with_target_size(spec, (64, 32)).steps, Size(120, 160))[1] == Size(32, 64)
    fixed = fake_spec("semantic", size=Size(64, 96))
    assert with_target_size(fixed, (96, 64)) == fixed
    with pytest.raises(ConfigError, match="takes 96 x 64 only"):
        with_target_size(fixed, -1)


@pytest.mark.parametrize("given", [0, -2, True, 1.5, (64,), (64, 0), "64x32", "a"])
def test_other_target_sizes_are_refused(given):
    with pytest.raises(ConfigError, match="target_size"):
        rayseg.create_model("fake-semantic", "fake:semantic", device="cpu", target_size=given)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pp_option": object()}, "pp_option.*engine_config="),
        ({"genai_config": {"a": 1}}, "genai_config.*language models"),
        ({"hpi_config": {"backend": "onnxruntime"}}, "hpi_config.*fastest engine"),
        ({"treshold": 0.5}, "no argument 'treshold'; did you mean 'threshold'"),
        ({"threshold": 2}, "threshold must be a number in"),
        ({"threshold": "0.5"}, "threshold must be a number in"),
        ({"threshold": float("nan")}, "threshold must be a number in"),
        ({"target_size": 64}, "finds objects"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"batch_size": None}, "batch_size must be a whole number"),
        ({"engine": "tensorrt"}, "engine 'tensorrt'"),
        ({"engine_config": {"enable_cinn": True}}, "engine_config.enable_cinn"),
        ({"engine_config": {"run_mode": "trt_fp16"}}, "run_mode 'trt_fp16'"),
        ({"engine_config": [1]}, "must be a mapping"),
        ({"engine": "eager", "use_hpip": True}, "use_hpip=True takes the fastest engine"),
        ({"use_hpip": "yes"}, "use_hpip must be True or False"),
    ],
)
def test_an_argument_that_is_wrong_or_not_honoured_is_refused_by_name(arguments, message):
    with pytest.raises(ConfigError, match=message):
        rayseg.create_model("fake-instance", FAKE, device="cpu", **arguments)


def test_arguments_that_ask_for_nothing_and_use_hpip_are_taken():
    model = rayseg.create_model(
        "fake-instance", FAKE, device="cpu", engine="paddle", pp_option=None, hpi_config=None, genai_config={}, use_hpip=True
    )
    assert count(model) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": "2"}, "batch_size"),
        ({"threshold": -0.1}, "threshold"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"img_size": 64}, "use target_size"),
        ({"save_path": "x"}, "predict\\(\\) has no argument 'save_path'"),
    ],
)
def test_predict_refuses_at_once_and_not_at_the_first_result(arguments, message):
    model = rayseg.create_model("fake-instance", FAKE, device="cpu")
    with pytest.raises(ConfigError, match=message):
        model.predict(IMAGE, **arguments)


def test_engine_configs_of_paddlex_reach_the_engine(model_dirs, pictures):
    model = rayseg.create_model(
        model_dir=model_dirs["instance"],
        device="cpu",
        engine="paddle_static",
        engine_config={"run_mode": "paddle", "cpu_threads": 1},
    )
    assert model._predictors[0].backend_name == "paddle" and model.model_name == "Mask-RT-DETR-S"
    assert choose_engine(None, {"cpu_threads": 3}).threads == 3
    assert choose_engine("paddle", None).backend == "auto"
    assert choose_engine(None, None).threads == min(10, len(os.sched_getaffinity(0)))


def test_a_name_must_be_that_of_the_folder(model_dirs):
    with pytest.raises(ModelError, match="is 'Mask-RT-DETR-S', not 'SOLOv2'"):
        rayseg.create_model("SOLOv2", model_dirs["instance"], device="cpu")


def test_a_model_that_is_nowhere_is_answered_with_the_way_to_make_one(cached):
    with pytest.raises(ModelError, match=r"official_models/SOLOv2 .*SOLOv2_infer.tar.*rayseg export SOLOv2 DIR"):
        rayseg.create_model("SOLOv2")
    with pytest.raises(ModelError, match="Did you mean 'SOLOv2'"):
        rayseg.create_model("SOLO-v2")
    with pytest.raises(ConfigError, match="which model"):
        rayseg.create_model()


def test_folders_that_paddlex_has_downloaded_are_found(cached, model_dirs, monkeypatch):
    (cached / "pdx/official_models").mkdir(parents=True)
    (cached / "pdx/official_models/Mask-RT-DETR-S").symlink_to(model_dirs["instance"])
    monkeypatch.setenv("RAYSEG_CACHE", str(cached / "empty"))
    monkeypatch.setenv("PADDLE_PDX_CACHE_HOME", str(cached / "pdx"))
    assert find_model_dir("Mask-RT-DETR-S") == cached / "pdx/official_models/Mask-RT-DETR-S"


# ---- pipelines


@pytest.mark.parametrize("name", NAMES)
def test_the_pipelines_that_ship_are_read(name):
    read = read_pipeline(name)
    assert read.module_name == name and read.batch_size == 1 and read.model_dir is None
    assert pipeline_text(name).startswith("#")


def test_inner_engine_settings_win_and_configs_are_merged():
    values = config(engine_config={"cpu_threads": 2})
    values |= {"engine": "eager", "engine_config": {"cpu_threads": 1, "run_mode": "paddle"}, "use_hpip": True}
    values["SubModules"]["engine"] = "paddle"
    read = read_pipeline(values)
    assert read.engine == "paddle" and read.use_hpip and read.engine_config == {"cpu_threads": 2, "run_mode": "paddle"}


def test_the_text_none_is_no_value():
    assert read_pipeline(config(threshold="None")).threshold is None


def changed(values, **changes):
    return {**values, **changes}


@pytest.mark.parametrize(
    "given, message",
    [
        ("instance", "pipeline 'instance' is unknown; give one of"),
        ("missing.yaml", "missing.yaml: cannot read"),
        (3, "pipeline 3 is unknown"),
        (config(treshold=0.4), "unknown setting 'treshold'; did you mean 'threshold'"),
        (config(threshold="high"), "threshold: expected float"),
        (changed(config(), pipeline_name="ocr"), "pipeline_name 'ocr' is unknown"),
        (changed(config(), SubModule={}), "unknown setting 'SubModule'; did you mean 'SubModules'"),
        (changed(config(), SubModules=None), "SubModules is missing"),
        (config(module_name="semantic_segmentation"), "contradicts pipeline_name"),
        (config(target_size=64), "finds objects"),
        (config(model_dir="fake:semantic", model_name=None), "is a model of semantic_segmentation"),
        (config(hpi_config={"backend": "openvino"}), "hpi_config"),
    ],
)
def test_a_wrong_pipeline_is_refused_with_the_key(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        rayseg.create_pipeline(given, device="cpu")


def test_config_alone_is_enough_and_must_not_contradict_the_name():
    assert count(rayseg.create_pipeline(config=config(), device="cpu")) == 4
    with pytest.raises(ConfigError, match="contradict each other"):
        rayseg.create_pipeline("semantic_segmentation", config=config())
    with pytest.raises(ConfigError, match="which pipeline"):
        rayseg.create_pipeline()


# ---- devices


@pytest.mark.parametrize(
    "text, found",
    [
        ("cpu", ["cpu"]),
        ("gpu", ["gpu:0"]),
        ("gpu:3", ["gpu:3"]),
        ("gpu:0,2", ["gpu:0", "gpu:2"]),
        ("npu:1", ["npu:1"]),
        ("dcu", ["dcu:0"]),
    ],
)
def test_device_strings_of_paddlex_are_read(text, found):
    assert [str(device) for device in parse_devices(text)] == found


@pytest.mark.parametrize(
    "text", ["", "cpu:0", "gpu:", "gpu:a", "gpu:0,", "gpu:0,0", "gpu0", "GPU", "tpu:0", "gpu:-1", "npu:0,1", 0, "cpu,gpu"]
)
def test_malformed_devices_are_refused(text):
    with pytest.raises(ConfigError, match="device"):
        parse_devices(text)


@pytest.mark.parametrize("text", ["npu:0", "xpu:0", "mlu:0", "gpu:97", "dcu"])
def test_a_device_that_is_not_there_is_an_error_that_names_it(text):
    with pytest.raises(BackendError, match=f"device {parse_devices(text)[0]}: is not there; Paddle sees cpu"):
        rayseg.create_model("fake-instance", FAKE, device=text)


def test_devices_of_every_build_of_paddle_are_seen(monkeypatch):
    import paddle

    assert devices.present()[0] == Device("cpu")
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(paddle.device, "get_available_custom_device", lambda: ["npu"])
    assert [str(device) for device in devices.present()] == ["cpu", "gpu:0", "gpu:1", "npu:0"]
    assert [str(device) for device in find_devices("gpu:1")] == ["gpu:1"]
    monkeypatch.setattr(paddle, "is_compiled_with_rocm", lambda: True)
    assert str(find_devices("dcu:1")[0]) == "dcu:1"
    with pytest.raises(BackendError, match="device gpu:0: is not there; Paddle sees cpu, dcu:0"):
        find_devices("gpu:0")


def test_without_a_device_the_first_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(devices, "present", lambda: (Device("cpu"), Device("gpu", 0), Device("gpu", 1)))
    assert find_devices(None) == (Device("gpu", 0),)
    assert find_devices("gpu:1,0") == (Device("gpu", 1), Device("gpu", 0))
    monkeypatch.setattr(devices, "present", lambda: (Device("cpu"),))
    assert find_devices(None) == (Device("cpu"),)
    monkeypatch.setattr(devices, "present", lambda: (Device("cpu"), Device("gpu", 0)))
    with pytest.raises(BackendError, match="device gpu:1"):
        find_devices("gpu:0,1")
