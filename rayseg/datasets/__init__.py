"""Annotated images: readers that turn each dataset format into `Sample`s. Augmentation belongs to training/."""
