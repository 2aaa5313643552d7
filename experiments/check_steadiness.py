"""Does the mouth tremble against the face? Videos are lip-synced to their own sound, and compared with themselves.

    python experiments/check_steadiness.py --checkpoint_path weights/warp.weights.h5 a.mp4 b.mp4

jitter: second difference over time of dlib's landmarks of the lips, each face aligned on those points that do not
speak, mean length in per cent of the eyes' distance, where the sound is at rest (the aim: result / source at most
1.2), and where somebody speaks. moved: how far the lips' opening goes to and fro in all pauses together (its standard
deviation), in the same unit. Measured before encoding, in videos without a cut.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1]
IMG_SIZE = 192  # of the crops in which landmarks are looked for


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", type=pathlib.Path, help="videos of faces with their own sound, with pauses in it")
    add("--checkpoint_path", required=True, type=pathlib.Path, help="the generator: X.weights.h5, or a legacy .h5")
    add("--detector", choices=("cnn", "hog"), default="hog", help="default: %(default)s")
    add("--max_s", type=float, default=10.0, help="seconds of each video (default: %(default)s)")
    add("--reference", default="fitted", help="as of batch_inference.py (default: %(default)s)")
    return parser.parse_args(argv)


def jitter(points, where):
    """Mean length of the second difference of the lips, % of the eyes' distance, of frames `where`; and how many."""
    import numpy as np

    from lipgan.faces.landmarks import EYES, LIPS
    from lipgan.inference.reference import STILL_POINTS

    flat = points @ (1, 1j)  # the plane as numbers
    still, eyes = flat[:, STILL_POINTS], [flat[:, eye].mean(1) for eye in EYES]
    centred = still - still.mean(1, keepdims=True)
    turn = (centred.conj() * centred[:1]).sum(1) / (np.abs(centred) ** 2).sum(1)  # the similarity onto the first face
    lips = (flat[:, LIPS] - still.mean(1, keepdims=True)) * turn[:, None]
    length = np.abs(np.diff(lips, 2, axis=0)).mean(1) / np.abs(eyes[1] - eyes[0])[0]
    inside = where[:-2] & where[1:-1] & where[2:]
    opening = np.abs(lips[:, 18] - lips[:, 14]) / np.abs(eyes[1] - eyes[0])[0]
    return 100 * length[inside].sum(), inside.sum(), 100 * opening[where].std() if where.any() else np.nan


def main(argv=None):
    """Print a line for each video, and one for all."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    import numpy as np
    from measured import measure

    from lipgan.inference.options import LipsyncOptions
    from lipgan.inference.pipeline import generate_frames
    from lipgan.inference.preparation import load_audio, prepare
    from lipgan.inference.runner import load_runner
    from lipgan.inference.silence_gate import silence_weights
    from lipgan.inference.source import open_source
    from lipgan.utils.cli import UserError

    try:
        runner, sums = load_runner(args.checkpoint_path, backend="openvino"), np.zeros((2, 2, 2))
        options = LipsyncOptions(max_sec=args.max_s, detector=args.detector, reference=args.reference)
        print(
            "| video | frames at rest | jitter at rest, source | result | ratio | speaking | moved at rest | result |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for path in args.videos:
            clip = prepare(open_source(path, options), load_audio(path, options, path), options)
            frames = (frame for frame, _ in generate_frames(clip, runner.reset(), options))
            pair = [measure(clip, None, IMG_SIZE), measure(clip, frames, IMG_SIZE)]
            fps = clip.source.fps
            resting = silence_weights(clip.audio.wav, clip.num_frames, fps)
            shown = np.round(pair[1].times_s * float(fps)).astype(int)
            rows = []
            for number, measured in enumerate(pair):
                points = measured.points[: len(shown)]
                at_rest, speaking = (jitter(points, where) for where in (resting[shown] == 1, resting[shown] == 0))
                sums[number] += [at_rest[:2], speaking[:2]]
                rows.append(
                    [at_rest[0] / max(at_rest[1], 1), at_rest[2], speaking[0] / max(speaking[1], 1), at_rest[1]]
                )
            (source, moved, speaking, count), (result, moved_result, speaking_result, _) = rows
            name, ratio = f"{path.parent.name}/{path.stem}", result / max(source, 1e-9)
            print(
                f"| {name} | {count} | {source:.2f} | {result:.2f} | {ratio:.2f} "
                f"| {speaking:.2f}, {speaking_result:.2f} | {moved:.2f} | {moved_result:.2f} |",
                flush=True,
            )
        (source, speaking), (result, speaking_result) = sums[..., 0] / sums[..., 1].clip(1)
        print(
            f"| all | {sums[0, 0, 1]:.0f} | {source:.2f} | {result:.2f} | {result / max(source, 1e-9):.2f} "
            f"| {speaking:.2f}, {speaking_result:.2f} | - | - |"
        )
    except UserError as e:
        print(f"check_steadiness.py: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
