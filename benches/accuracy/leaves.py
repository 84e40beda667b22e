"""Dead leaves: images of shapes that cover each other, in sizes that follow a power law, as JPEG files.

    pip install numpy pillow
    python3 leaves.py DATA COUNT           # adds COUNT of them to the training images of an image folder

Natural images have such statistics (Lee, Mumford and Huang 2001), and networks learn from them (Baradad et al. 2021, arXiv
2106.05963). Whether a quantized network does is measured in docs/methods.md.
"""

import os
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIDE = 32
FINER = 4  # drawn larger, and averaged


def leaf(rng):
    palette = [rng.normal(120, 65) + rng.normal(0, 28, 3) for _ in range(rng.integers(2, 7))]

    def color():
        c = palette[rng.integers(len(palette))] + rng.normal(0, 18) + rng.normal(0, 8, 3)
        return tuple(int(v) for v in np.clip(c, 0, 255))

    image = Image.new("RGB", (SIDE * FINER, SIDE * FINER), color())
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 60)):
        r = min(22, 1.5 / (1 - rng.uniform()) ** 0.9) * FINER
        x, y = rng.uniform(-6, SIDE + 6, 2) * FINER
        corners = (0, 4, 3)[rng.integers(3)]
        if corners == 0:
            e = rng.uniform(0.4, 1)
            draw.ellipse([x - r, y - r * e, x + r, y + r * e], fill=color())
        else:
            angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners + rng.normal(0, 0.2, corners)
            draw.polygon([(x + r * np.cos(a), y + r * np.sin(a)) for a in angles], fill=color())
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.15, 0.6) * FINER)).resize((SIDE, SIDE), Image.BOX)
    pixels = np.asarray(image).astype(np.float32)
    pixels += rng.normal(0, rng.uniform(0, 12), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def main():
    data, count = sys.argv[1], int(sys.argv[2])
    classes = sorted(os.listdir(f"{data}/train"))  # labels are not read
    rng = np.random.default_rng(0)
    for i in range(count):
        leaf(rng).save(f"{data}/train/{classes[i % len(classes)]}/leaf{i:05}.jpg", quality=75)


if __name__ == "__main__":
    main()
