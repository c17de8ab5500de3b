"""Weights files: what is written is read back; what is hostile, broken or foreign is refused with the reason."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddle import nn

from rayseg.errors import ModelError, WeightsError
from rayseg.models import weights
from rayseg.models.weights import Loaded, load_weights, read_pdparams, save_weights


def small_model(outputs: int = 3) -> nn.Layer:
    return nn.Sequential(("first", nn.Conv2D(2, 4, 3)), ("norm", nn.BatchNorm2D(4)), ("last", nn.Linear(4, outputs)))


def values(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_what_is_saved_is_loaded_into_another_model(tmp_path):
    paddle.seed(1)
    one, other = small_model(), small_model()
    save_weights(one, tmp_path / "m.pdparams")
    assert load_weights(other, tmp_path / "m.pdparams") == Loaded()
    assert_equal(values(other), values(one))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool"]),
    st.integers(2, 5),
)
def test_any_array_of_numbers_survives_any_pickle_protocol(tmp_path_factory, shape, dtype, protocol):
    path = tmp_path_factory.mktemp("w") / "a.pdparams"
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    path.write_bytes(pickle.dumps(OrderedDict(a=array, b=np.asfortranarray(array)), protocol=protocol))
    assert_equal(read_pdparams(path), {"a": array, "b": array})


def test_paddle_reads_ours_and_we_read_paddles(tmp_path):
    paddle.seed(2)
    model = small_model()
    save_weights(model, tmp_path / "ours.pdparams")
    theirs = small_model()
    theirs.set_state_dict(paddle.load(str(tmp_path / "ours.pdparams")))
    assert_equal(values(theirs), values(model))
    paddle.save(model.state_dict(), str(tmp_path / "theirs.pdparams"))
    again = small_model()
    load_weights(again, tmp_path / "theirs.pdparams")
    assert_equal(values(again), values(model))


def test_a_tensor_saved_inside_a_plain_dict_is_read(tmp_path):
    paddle.save({"a": paddle.ones([2])}, str(tmp_path / "t.pdparams"))
    np.testing.assert_array_equal(read_pdparams(tmp_path / "t.pdparams")["a"], [1, 1])


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, np.load, np.fromfile], ids=lambda f: f.__name__)
def test_a_file_that_names_a_function_is_refused_before_anything_runs(tmp_path, function, protocol):
    path, trace = tmp_path / "bad.pdparams", tmp_path / "ran"
    call = Calls(os.system, f"touch {trace}") if function is os.system else Calls(function, "1")
    path.write_bytes(pickle.dumps({"w": np.ones(2), "x": call}, protocol=protocol))
    with pytest.raises(WeightsError, match=r"bad\.pdparams: refused, because it asks for .*" + function.__name__):
        load_weights(small_model(), path)
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_a_subclass_in_place_of_an_array_is_refused(tmp_path):
    (tmp_path / "bad.pdparams").write_bytes(pickle.dumps({"w": np.matrix([[1]])}))
    with pytest.raises(WeightsError, match=r"refused, because it asks for numpy.*matrix"):
        read_pdparams(tmp_path / "bad.pdparams")


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "holds a list, not a dict"),
        ({"w": "text"}, "entry 'w' is a str, not an array of numbers"),
        ({"epoch": 3, "w": np.ones(1)}, "entry 'epoch' is a int.*training checkpoint"),
        ({"w": np.array(["a"])}, "entry 'w' is a <U1"),
        ({"w": np.array([None, {}], dtype=object)}, "entry 'w' is a object"),
    ],
)
def test_other_content_is_named(tmp_path, content, message):
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match=message):
        read_pdparams(tmp_path / "x.pdparams")


def test_a_file_cut_anywhere_is_refused_and_the_model_untouched(tmp_path):
    model = small_model()
    save_weights(model, tmp_path / "m.pdparams")
    whole, before = (tmp_path / "m.pdparams").read_bytes(), values(model)
    for length in sorted({0, 1, 2, 10, len(whole) // 2, len(whole) - 1}):
        (tmp_path / "cut.pdparams").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.pdparams"):
            load_weights(model, tmp_path / "cut.pdparams")
    assert_equal(values(model), before)


def test_a_missing_file_and_a_git_lfs_pointer_are_told_apart(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pdparams: cannot be read \(No such file"):
        read_pdparams(tmp_path / "none.pdparams")
    (tmp_path / "p.pdparams").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(WeightsError, match="git lfs pull"):
        read_pdparams(tmp_path / "p.pdparams")


def test_a_misfit_lists_what_is_missing_surplus_and_misshaped_and_sets_nothing(tmp_path):
    arrays = values(small_model(outputs=5))
    arrays["odd.name"] = arrays.pop("first.bias")
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(arrays))
    model = small_model(outputs=3)
    before = values(model)
    with pytest.raises(WeightsError) as error:
        load_weights(model, tmp_path / "m.pdparams")
    assert "1 missing: first.bias" in str(error.value)
    assert "1 surplus: odd.name" in str(error.value)
    assert "2 of another shape: last.weight is (4, 5), wanted (4, 3)" in str(error.value)
    assert_equal(values(model), before)


def test_fine_tuning_skips_what_does_not_fit_and_says_what(tmp_path):
    source, model = small_model(outputs=5), small_model(outputs=3)
    save_weights(source, tmp_path / "m.pdparams")
    assert load_weights(model, tmp_path / "m.pdparams", allow_misfits=True).unset == ("last.weight", "last.bias")
    np.testing.assert_array_equal(values(model)["first.weight"], values(source)["first.weight"])
    with pytest.raises(WeightsError, match="none of its 8 arrays fits"):
        load_weights(nn.Conv2D(1, 1, 1), tmp_path / "m.pdparams", allow_misfits=True)


class Segmenter(nn.Layer):
    """Names and shapes like those of the zoo: a backbone, a late stage that lives in the head, two heads by class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = nn.Sequential(("res2", nn.Conv2D(3, 4, 3)), ("norm", nn.BatchNorm2D(4)))
        self.bbox_head = nn.Sequential(("head", nn.Sequential(("res5", nn.Conv2D(4, 4, 1)))))
        self.score = nn.Linear(4, num_classes + 1)
        self.delta = nn.Linear(4, 4 * num_classes)
        self.again = self.score


HEADS = ("score.weight", "score.bias", "delta.weight", "delta.bias", "again.weight", "again.bias")


@given(st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_heads_for_another_number_of_classes_stay_fresh_and_are_named(tmp_path_factory, theirs, ours):
    path = tmp_path_factory.mktemp("w") / "m.pdparams"
    source, model = Segmenter(theirs), Segmenter(ours)
    save_weights(source, path)
    before = values(model)
    loaded = load_weights(model, path)
    assert set(loaded.fresh_heads) == (set(HEADS) if theirs != ours else set()) and not loaded.misshaped
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, (before if name in loaded.fresh_heads else values(source))[name])


def test_the_log_says_which_heads_are_fresh(tmp_path, caplog):
    save_weights(Segmenter(80), tmp_path / "m.pdparams")
    load_weights(Segmenter(3), tmp_path / "m.pdparams")
    assert "made for another number of classes; left fresh: score.weight" in caplog.text


def test_a_misfit_that_no_number_of_classes_explains_is_refused(tmp_path):
    arrays = values(Segmenter(80))
    arrays["delta.bias"] = np.zeros(4 * 70, np.float32)  # the other heads say 80
    arrays["delta.weight"] = np.zeros((4, 4 * 80 + 1), np.float32)
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(arrays))
    with pytest.raises(WeightsError, match=r"2 of another shape: delta\.weight is \(4, 321\).*delta\.bias is \(280,\)"):
        load_weights(Segmenter(3), tmp_path / "m.pdparams")


def test_an_imagenet_backbone_fills_the_backbone_and_the_stage_in_the_head(tmp_path):
    source, model = Segmenter(3), Segmenter(3)
    arrays = {k.removeprefix("backbone."): v for k, v in values(source).items() if k.startswith("backbone.")}
    arrays["res5.weight"] = values(source)["bbox_head.head.res5.weight"]
    arrays["res5.bias"] = values(source)["bbox_head.head.res5.bias"]
    arrays["fc.weight"] = np.zeros((4, 1000), np.float32)
    (tmp_path / "r.pdparams").write_bytes(pickle.dumps(arrays))
    before = values(model)
    loaded = load_weights(model, tmp_path / "r.pdparams")
    assert loaded.outside_backbone == HEADS and not loaded.surplus
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, (before if name in HEADS else values(source))[name])


def test_a_backbone_with_a_hole_is_refused(tmp_path):
    arrays = {k.removeprefix("backbone."): v for k, v in values(Segmenter(3)).items() if k.startswith("backbone.")}
    del arrays["norm._mean"]
    (tmp_path / "r.pdparams").write_bytes(pickle.dumps(arrays))
    with pytest.raises(WeightsError, match=r"1 missing: backbone\.norm\._mean"):
        load_weights(Segmenter(3), tmp_path / "r.pdparams")


def test_one_of_two_names_of_a_tensor_is_enough(tmp_path):
    source, model = Segmenter(3), Segmenter(3)
    arrays = {k: v for k, v in values(source).items() if not k.startswith("score.")}
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(arrays))
    assert load_weights(model, tmp_path / "m.pdparams") == Loaded()
    assert_equal(values(model), values(source))


def test_a_name_of_the_zoo_and_a_url_are_fetched(tmp_path, monkeypatch):
    save_weights(Segmenter(3), tmp_path / "m.pdparams")
    asked = []

    def fetched(url):
        asked.append(url)
        return tmp_path / "m.pdparams"

    monkeypatch.setattr(weights, "cached", fetched)
    load_weights(Segmenter(3), "PP-LiteSeg-T")
    load_weights(Segmenter(3), "http://somewhere/x.pdparams")
    assert asked[0].endswith("/PP-LiteSeg-T_pretrained.pdparams") and asked[1:] == ["http://somewhere/x.pdparams"]
    with pytest.raises(ModelError, match="Did you mean 'PP-LiteSeg-T'"):
        load_weights(Segmenter(3), "PP-LiteSeg-X")
    with pytest.raises(WeightsError, match="no weights of this model were published"):
        load_weights(Segmenter(3), "MaskRCNN-ResNet50-vd-SSLDv2-FPN")


def test_a_save_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "m.pdparams"
    save_weights(small_model(), path)
    old = path.read_bytes()

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pickle, "dump", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(small_model(), path)
    assert path.read_bytes() == old
    assert [p.name for p in Path(tmp_path).iterdir()] == ["m.pdparams"]
