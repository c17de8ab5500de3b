"""One process: model directories, preparing an image, running a network, finishing its outputs, export."""
