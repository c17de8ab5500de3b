"""Training in one process: augmentation, batches, optimizer, checkpoints, the loop. Networks bring their own loss."""
