"""The numerics of finishing: rows to keep, masks from small numbers, label maps. families/ says which model uses what."""
