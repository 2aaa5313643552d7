"""Which frame should a video's generator look at: itself, a far one, or one whose mouth is shut?

    python benchmarks/compare_references.py --checkpoint_path weights/warp.weights.h5 --data_root grid_preprocessed

Each clip of the list is given the sound of the next one. sync: correlation of the result's mouth opening with the true
mouth of that sound. leak: with the mouth that the clip had itself; what the two true mouths have in common is in the
last line. opening: its standard deviation, in parts of the true mouth's of that sound. own PSNR: of the mouth, dB, with
the clip's own sound. flicker: how much the crop's lower half changes from frame to frame outside of the mouth, in parts
of the clip's own. Each beside a 95 % interval by bootstrap over clips.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
MAX_FRAMES = 120  # of a clip
COLUMNS = ("sync", "leak", "opening", "own PSNR", "flicker")


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="the generator: X.weights.h5, or a legacy .h5")
    add("--data_root", required=True, help="folder made by preprocess.py")
    add("--filelists", default="filelists/", help="folder of the lists (default: %(default)s)")
    add("--split", choices=("train", "val", "test"), default="test", help="default: %(default)s")
    add("--max_clips", type=int, default=12, help="evenly spaced clips (default: %(default)s)")
    add("--backend", choices=("openvino", "tensorflow", "jax"), default="openvino", help="default: %(default)s")
    return parser.parse_args(argv)


def references(truth, openings):
    """By name, which frame is the reference of each: (N,) int. truth: (N, S, S, 3), openings: (N,)."""
    import numpy as np

    from audio_hparams import hparams

    count = len(truth)
    index = np.arange(count)
    return {
        "same": index,
        "far": np.where(index < hparams.min_reference_gap, count - 1, 0),
        "closed": np.full(count, int(np.argmin(openings))),
        "median": np.full(count, int(np.argsort(openings)[count // 2])),
    }


def main(argv=None):
    """Print the table."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    import numpy as np

    import options
    from errors import UserError

    try:
        options.set_backend(args.backend, "openvino")
        import metrics
        from checkpoint import load_generator
        from dataset import FaceDataset
        from faces import generator_input
        from mouth import LipLandmarks, opening
        from scoring import generated, windows
        from splits import evenly_spaced, find_clips

        generator, info = load_generator(args.checkpoint_path)
        clips, notes = find_clips(args.data_root, args.split, args.filelists)
        print("\n".join(notes), end="\n" if notes else "")
        dataset, find = FaceDataset(evenly_spaced(clips, args.max_clips), info["img_size"]), LipLandmarks()
    except UserError as e:
        print(f"compare_references.py: {e}", file=sys.stderr)
        return 1

    def lips(crops):
        return np.stack([find(crop) for crop in crops])

    frames = [[int(frame) for frame in clip.targets][:MAX_FRAMES] for clip in dataset.clips]
    truths = [np.stack([dataset.read_crop(n, f) for f in own]) for n, own in enumerate(frames)]
    true_lips = [lips(truth) for truth in truths]
    rows = {}
    for number, truth in enumerate(truths):
        other = (number + 1) % len(truths)
        count = min(len(truth), len(truths[other]))
        own, wanted = true_lips[number][:count], true_lips[other][:count]
        mels, own_mels = (windows(dataset, n, frames[n][:count]) for n in (other, number))
        for name, index in references(truth, opening(true_lips[number])).items():
            reference = truth[index][:count]
            six = generator_input(reference, truth[:count])
            made, with_own = (generated(generator, six, m, 16) for m in (mels, own_mels))
            found = lips(made)
            steady = _change(made) / max(_change(truth[:count]), 1e-9)
            rows.setdefault(name, []).append(
                [
                    metrics.opening_correlation(found, wanted),
                    metrics.opening_correlation(found, own),
                    metrics.opening_range(found, wanted),
                    metrics.psnr(*(metrics.mouth_region(crops) for crops in (with_own, truth[:count]))),
                    steady,
                ]
            )
        floor = metrics.opening_correlation(wanted, own)
        rows.setdefault("true mouths", []).append([1.0, floor, 1.0, np.nan, np.nan])
    print(f"\n| reference, {len(truths)} clips | {' | '.join(COLUMNS)} |\n|---" + "|---" * len(COLUMNS) + "|")
    for name in [*(n for n in rows if n != "true mouths"), "true mouths"]:
        cells = [
            "{:.2f} ({:.2f} to {:.2f})".format(*metrics.interval(values)) for values in zip(*rows[name], strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


def _change(crops):
    """Mean absolute change from frame to frame of the lower half outside of the mouth's part, in grey levels."""
    import numpy as np

    from mouth import MOUTH

    size = crops.shape[1]
    top, bottom, left, right = (round(edge * size) for edge in MOUTH)
    outside = np.zeros(crops.shape[1:3], bool)
    outside[size // 2 :] = True
    outside[top:bottom, left:right] = False
    return float(np.abs(np.diff(crops.astype("float32"), axis=0))[:, outside].mean())


if __name__ == "__main__":
    sys.exit(main())
