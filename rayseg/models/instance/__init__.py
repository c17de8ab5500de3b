"""Instance segmentation networks, one family to a group of files."""
