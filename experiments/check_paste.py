"""Check that the pasted mouth has no visible border: videos are lip-synced to their own audio before encoding.

    python -m experiments.check_paste --checkpoint_path weights/lipgan.weights.h5 a.mp4 b.mp4

outside: pixels that changed where the mask is 0 (must be 0). edge, upper, jaw: mean gradient of brightness normal to
the mask's edge, result / source, along all of it, its upper line, and the rest (must be within 10 % of 1).
"""

import argparse
import pathlib

import cv2
import numpy as np

from experiments.measured import lipsynced, open_clip
from lipgan.inference.blend import RISE, frame_mask, mask_rise
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.runner import load_runner
from lipgan.utils.cli import script


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", type=pathlib.Path, help="videos of faces with their own audio")
    add("--checkpoint_path", required=True, type=pathlib.Path, help="the generator: X.weights.h5, or a legacy .h5")
    add("--detector", choices=("cnn", "hog"), default="hog", help="default: %(default)s")
    add("--max_s", type=float, default=2.0, help="seconds of each video (default: %(default)s)")
    add("--reference", default="fitted", help="as of batch_inference.py (default: %(default)s)")
    return parser.parse_args(argv)


def pasted(path, runner, options):
    """Yield (source, result, mask (H, W)) of each frame of a video that has a face."""
    clip = open_clip(path, path, options)
    track = clip.track
    pairs = zip(clip.source.plane_frames(len(track.found)), lipsynced(clip, runner, options), strict=False)
    for n, (frame, result) in enumerate(pairs):
        if track.found[n]:
            source = frame.bgr()  # converted as the result's own pixels are
            box, points = track.boxes[n], track.points[n]
            rise = mask_rise(box, points) if runner.needs_lips and clip.references else RISE
            yield source, result, frame_mask(source.shape, box, runner.img_size, points, rise)


def edge_gradients(image, mask):
    """Return the mean absolute gradient normal to the mask's edge: along all of it, its upper line, and the rest."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    (across, down), (mask_across, mask_down) = (
        [cv2.Sobel(plane, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1))]
        for plane in (grey, mask)
    )
    steepness = np.hypot(mask_across, mask_down)  # also the weight: where the mask changes, an edge would show
    normal = np.abs(across * mask_across + down * mask_down)  # times the steepness
    upper = (mask_down > 0) & (np.abs(mask_across) < mask_down)
    return [normal[where].sum() / max(steepness[where].sum(), 1e-9) for where in (steepness > 0, upper, ~upper)]


@script
def main(argv=None):
    """Print a line for each video. Returns 1 where one fails the check."""
    args = parse_args(argv)
    runner, failed = load_runner(args.checkpoint_path, backend="openvino"), False
    options = LipsyncOptions(max_sec=args.max_s, detector=args.detector, reference=args.reference)
    print(f"{'video':<32} frames  outside    edge   upper     jaw")
    for path in args.videos:
        outside, gradients = 0, []
        for source, result, mask in pasted(path, runner, options):
            outside += int((source != result).any(axis=-1)[mask == 0].sum())
            gradients.append([edge_gradients(image, mask) for image in (result, source)])
        result, source = np.array(gradients).mean(axis=0)
        ratios = result / source
        failed |= outside > 0 or not 0.9 <= ratios[0] <= 1.1
        numbers = " ".join(f"{ratio:7.3f}" for ratio in ratios)
        print(f"{'/'.join(path.parts[-2:]):<32} {len(gradients):6d} {outside:8d} {numbers}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
