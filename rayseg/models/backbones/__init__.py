"""Feature extractors shared by several families: an image in, a list of feature maps out."""
