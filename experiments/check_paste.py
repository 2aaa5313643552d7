"""Does the paste show? Videos are lip-synced to their own sound, and compared with themselves before encoding.

    python experiments/check_paste.py --checkpoint_path weights/lipgan.weights.h5 a.mp4 b.mp4

outside: pixels that changed where the mask is 0 (must be 0). edge, upper, jaw: mean gradient of brightness normal to
the mask's edge, result / original, along all of it, its upper line, and the rest (must be within 10 % of 1).
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", type=pathlib.Path, help="videos of faces with their own sound")
    add("--checkpoint_path", required=True, type=pathlib.Path, help="the generator: X.weights.h5, or a legacy .h5")
    add("--detector", choices=("cnn", "hog"), default="hog", help="default: %(default)s")
    add("--max_s", type=float, default=2.0, help="seconds of each video (default: %(default)s)")
    add("--reference", default="fitted", help="as of batch_inference.py (default: %(default)s)")
    return parser.parse_args(argv)


def lipsynced(path, runner, options):
    """Yield (source, result, mask (H, W)) of each frame that has a face."""
    from lipgan.inference.blend import frame_mask
    from lipgan.inference.pipeline import generate_frames
    from lipgan.inference.preparation import load_audio, prepare
    from lipgan.inference.source import open_source

    clip = prepare(open_source(path, options), load_audio(path, options, path), options)
    track, frames = clip.track, generate_frames(clip, runner.reset(), options)
    for n, (source, (result, has_face)) in enumerate(zip(clip.source.frames(len(track.found)), frames, strict=False)):
        if has_face:
            yield source, result, frame_mask(source.shape, track.boxes[n], runner.img_size, track.points[n])


def edge_gradients(picture, mask):
    """Mean absolute gradient of brightness normal to the mask's edge: along all of it, its upper line, the rest."""
    import cv2
    import numpy as np

    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
    (across, down), (mask_across, mask_down) = (
        [cv2.Sobel(image, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1))]
        for image in (grey, mask)
    )
    steepness = np.hypot(mask_across, mask_down)  # the weight, too: where the mask changes, an edge would show
    normal = np.abs(across * mask_across + down * mask_down)  # times the steepness
    upper = (mask_down > 0) & (np.abs(mask_across) < mask_down)
    return [normal[where].sum() / max(steepness[where].sum(), 1e-9) for where in (steepness > 0, upper, ~upper)]


def main(argv=None):
    """Print a line for each video."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from lipgan.inference.options import LipsyncOptions
    from lipgan.inference.runner import load_runner
    from lipgan.utils.cli import UserError

    try:
        runner, failed = load_runner(args.checkpoint_path, backend="openvino"), False
        options = LipsyncOptions(max_sec=args.max_s, detector=args.detector, reference=args.reference)
        print(f"{'video':<32} frames  outside    edge   upper     jaw")
        for path in args.videos:
            outside, gradients = 0, []
            for source, result, mask in lipsynced(path, runner, options):
                outside += int((source != result).any(axis=-1)[mask == 0].sum())
                gradients.append([edge_gradients(picture, mask) for picture in (result, source)])
            result, original = np.array(gradients).mean(axis=0)
            ratios = result / original
            failed |= outside > 0 or not 0.9 <= ratios[0] <= 1.1
            numbers = " ".join(f"{ratio:7.3f}" for ratio in ratios)
            name = "/".join(path.parts[-2:])
            print(f"{name:<32} {len(gradients):6d} {outside:8d} {numbers}", flush=True)
    except UserError as e:
        print(f"check_paste.py: {e}", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
