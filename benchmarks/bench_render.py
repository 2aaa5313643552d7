"""Processor time of rendering a mouth, compared with evaluating flow and paint at every pixel.

    python benchmarks/bench_render.py --heights 120 400 800

The comparison is an earlier renderer, without the layer of the mouth's inside. The face is the example photo's,
enlarged; the maps are random. Both run in one thread, in turn. Medians of --runs frames, each with other lips.
"""

import argparse
import functools
import pathlib
import sys
import threading
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lipgan.inference.blend import paste_mask
from lipgan.inference.render import MouthMaps, paste_mouth
from lipgan.models import lip_flow

FACE = slice(40, 240), slice(130, 303)  # rows and columns of the photo
SIZE, TILT = 96, 8.0  # of the network's grid; degrees


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--heights", type=int, nargs="+", default=[120, 400, 800], help="heights of the face, in pixels")
    add("--runs", type=int, default=50, help="default: %(default)s")
    return parser.parse_args(argv)


def lips(opening):
    """Return lips (40,) float32 at the usual place in a crop."""
    outer, inner = (np.arange(n) / n * 2 * np.pi + np.pi for n in (12, 8))
    points = [[0.13 * np.cos(a), (0.04 + opening / 2) * np.sin(a)] for a in outer]
    points += [[0.1 * np.cos(a), opening / 2 * np.sin(a)] for a in inner]
    return np.add(points, (0.5, 0.72)).astype(np.float32).ravel()


def mouth_maps(rng):
    """Draw the maps of a mouth with random opening, and a small smooth correction."""
    correction = cv2.resize(rng.normal(0, 0.003, (6, 12, 2)), (SIZE, SIZE // 2)).astype(np.float32)
    return MouthMaps(lips(0.02), lips(0.1 * rng.random()), correction)


def exact_mouth(frame, crop, maps, box):
    """Render an upright face as `paste_mouth` does, with each formula evaluated at every pixel."""
    top, bottom, left, right = box
    height, width = crop.shape[:2]
    half = height // 2
    y, x = lip_flow.pixel_centres(height, half), lip_flow.pixel_centres(width)
    correction = cv2.resize(maps.correction, (width, height - half))
    flow = lip_flow.lip_flow(maps.reference_lips, maps.lips, y, x) + correction
    map_x = np.arange(width, dtype=np.float32) + width * flow[..., 1]
    map_y = np.arange(half, height, dtype=np.float32)[:, None] + height * flow[..., 0]
    moved = cv2.remap(crop, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    mask = cv2.resize(paste_mask(SIZE, box), (width, height))[half:, :, None]
    result = frame.copy()
    region = result[top + half : bottom, left:right]
    region[...] = np.clip(region + mask * (moved - region) + 0.5, 0, 255)
    return result


def median_ms(work, maps):
    """Return the median processor time of each function of MouthMaps, called in turn, in ms."""
    times = [[] for _ in work]
    for mouth in maps:
        for function, durations in zip(work, times, strict=True):
            start = time.thread_time()
            function(mouth)
            durations.append(1000 * (time.thread_time() - start))
    return [np.median(durations) for durations in times]


def main(argv=None):
    """Time each height and print a table row for it."""
    args = parse_args(argv)
    cv2.setNumThreads(1)
    photo = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))[FACE]
    maps = [mouth_maps(np.random.default_rng(number)) for number in range(args.runs)]
    print("| face, pixels | upright, ms | at every pixel, ms | ratio | tilted head, ms |\n|---|---|---|---|---|")
    for height in args.heights:
        face = cv2.resize(photo, (round(height * photo.shape[1] / photo.shape[0]), height))
        box = 0, height, 0, face.shape[1]
        ways = [functools.partial(paste_mouth, face, face, box=box, roll=roll) for roll in (0, TILT)]
        upright, tilted, exact = median_ms([*ways, functools.partial(exact_mouth, face, face, box=box)], maps)
        cells = f"{upright:.2f} | {exact:.2f} | {exact / upright:.2f} | {tilted:.2f}"
        print(f"| {height} x {face.shape[1]} | {cells} |", flush=True)


if __name__ == "__main__":
    # Not in the main thread, whose allocator returns memory to the system at once; the pipeline's threads keep it.
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
