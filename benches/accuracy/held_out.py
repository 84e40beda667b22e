#!/usr/bin/env python3
"""Folders to choose settings on, without test images.

    python3 benches/accuracy/held_out.py JPEG OUT

JPEG is the unpacked JPEG copy of CIFAR-10. OUT/held-out has the first 500 training images of each class
as its `test` and all others as its `train`; OUT/cal has the same `test`, and 1,045 of the others, drawn
at random, as its `train`: enough to calibrate on 1,024 and hold 2 % out. Files are hard links.
"""
import os
import random
import sys
from pathlib import Path

HELD_OUT = 500  # a class
CALIBRATION = 1045


def link(files, folder):
    for file in files:
        to = folder / file.parent.name / file.name
        to.parent.mkdir(parents=True, exist_ok=True)
        if not to.exists():
            os.link(file, to)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    train, out = Path(sys.argv[1]) / "train", Path(sys.argv[2])
    classes = [sorted(c.iterdir()) for c in sorted(train.iterdir())]
    held_out = [f for c in classes for f in c[:HELD_OUT]]
    others = [f for c in classes for f in c[HELD_OUT:]]
    random.seed(1)
    drawn = random.sample(others, CALIBRATION)
    for name, of_it in [("held-out", others), ("cal", drawn)]:
        link(held_out, out / name / "test")
        link(of_it, out / name / "train")


main()
