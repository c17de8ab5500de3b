"""A tiny data set in PaddleX's semantic layout from the demo images: python docs/examples/nuclei_dataset.py data

data/images/*.png        the images
data/annotations/*.png   index masks: 0 background, 1 nucleus
data/labels.txt          the names of the classes, one a line
data/train.txt, val.txt  lines of `images/NAME.png annotations/NAME.png`, twelve and four
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask

demo, out = Path("demo"), Path(sys.argv[1])
truth = json.loads((demo / "instances.json").read_text())
for folder in ("images", "annotations"):
    (out / folder).mkdir(parents=True, exist_ok=True)

lines = []
for image in sorted(truth["images"], key=lambda image: image["file_name"]):
    name = image["file_name"]
    nuclei = np.zeros((image["height"], image["width"]), dtype=np.uint8)
    for found in truth["annotations"]:
        if found["image_id"] == image["id"]:
            nuclei |= mask.decode(found["segmentation"])
    Image.fromarray(nuclei).save(out / "annotations" / name)
    shutil.copy(demo / "images" / name, out / "images" / name)
    lines.append(f"images/{name} annotations/{name}\n")

(out / "labels.txt").write_text("background\nnucleus\n")
(out / "train.txt").write_text("".join(lines[:12]))
(out / "val.txt").write_text("".join(lines[12:]))
