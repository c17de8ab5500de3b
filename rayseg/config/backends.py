"""The words for engines and precisions, as users type them. What they mean is `rayseg.predict.backends`'s."""

from __future__ import annotations

BACKENDS = ("auto", "paddle", "paddle-onednn", "onnxruntime", "openvino", "paddle-tensorrt", "eager", "fake")
"""`auto` is the fastest one that gives right numbers for the model on the machine at hand."""
PRECISIONS = ("fp32", "bf16", "fp16")
"""Of the network's arithmetic. The first is the model's own; the others change results in their last digits or more."""
