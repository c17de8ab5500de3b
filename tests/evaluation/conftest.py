"""The small exported networks that predicting is tested with."""

from tests.predict.conftest import instance_network, model_dirs, pictures, semantic_network

__all__ = ["instance_network", "model_dirs", "pictures", "semantic_network"]
