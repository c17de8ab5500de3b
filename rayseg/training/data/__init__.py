"""From samples to the batches of a training step: views, colours, pipelines, order, loading. No paddle, no Ray."""
