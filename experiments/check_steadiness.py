"""Check that the mouth neither trembles nor flickers: lip-synced videos against their sources, before encoding.

    python -m experiments.check_steadiness --checkpoint_path weights/warp.weights.h5 a.mp4 b.mp4

jitter: second difference over time of dlib's lip landmarks, each face aligned on the points that do not speak, mean
length in % of the distance of the eyes, in silence (the aim: result / source at most 1.2) and in speech. moved:
standard deviation of mouth opening over all pauses together, in the same unit. flicker: second difference over time of
the mean colour within the lips' outline, each video's own, mean over frames and channels in grey levels (the aim:
result / source at most 1.2; where the lips move more than the source's, so does their colour). For videos of one shot.
"""

import argparse
import dataclasses
import pathlib

import cv2
import numpy as np

from experiments.measured import lipsynced, measure, open_clip
from lipgan.faces.landmarks import EYES, LIPS
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.reference import STILL_POINTS
from lipgan.inference.runner import load_runner
from lipgan.inference.silence_gate import silence_weights
from lipgan.utils.cli import script

IMG_SIZE = 192  # of the crops in which landmarks are found


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Sums over some frames of a video."""

    total: float  # % of the distance of the eyes
    frames: int
    moved: float = np.nan  # standard deviation of the opening, in the same unit

    @property
    def mean(self):
        return self.total / max(self.frames, 1)

    def __add__(self, other):
        return Jitter(self.total + other.total, self.frames + other.frames)


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", type=pathlib.Path, help="videos of faces with their own audio, with pauses in it")
    add("--checkpoint_path", required=True, type=pathlib.Path, help="the generator: X.weights.h5, or a legacy .h5")
    add("--detector", choices=("cnn", "hog"), default="hog", help="default: %(default)s")
    add("--max_s", type=float, default=10.0, help="seconds of each video (default: %(default)s)")
    add("--reference", default="fitted", help="as of batch_inference.py (default: %(default)s)")
    return parser.parse_args(argv)


def jitter(points, where):
    """Measure the Jitter of landmarks (N, 68, 2) over the frames `where`, (N,) bool."""
    flat = points @ (1, 1j)  # the plane as numbers
    still, eyes = flat[:, STILL_POINTS], [flat[:, eye].mean(1) for eye in EYES]
    centred = still - still.mean(1, keepdims=True)
    turn = (centred.conj() * centred[:1]).sum(1) / (np.abs(centred) ** 2).sum(1)  # the similarity onto the first face
    lips = (flat[:, LIPS] - still.mean(1, keepdims=True)) * turn[:, None]
    eye_distance = np.abs(eyes[1] - eyes[0])[0]
    length = np.abs(np.diff(lips, 2, axis=0)).mean(1) / eye_distance
    inside = where[:-2] & where[1:-1] & where[2:]
    opening = np.abs(lips[:, 18] - lips[:, 14]) / eye_distance
    moved = 100 * opening[where].std() if where.any() else np.nan
    return Jitter(100 * length[inside].sum(), int(inside.sum()), moved)


def flicker(crops, points):
    """Return the mean second difference over time of the mouth's mean colour, in grey levels; 0 of under 3 frames.

    crops: (N, S, S, 3) uint8. points: (N, 68, 2), landmarks in parts of S.
    """
    colours = []
    for crop, lips in zip(crops, points[:, LIPS], strict=True):
        outline = np.zeros(crop.shape[:2], np.uint8)
        corners = np.round((cv2.convexHull(np.float32(lips)) * len(crop) - 0.5) * 16).astype(np.int32)
        cv2.fillConvexPoly(outline, corners, 255, shift=4)
        colours.append(cv2.mean(crop, outline)[:3])
    return float(np.abs(np.diff(colours, 2, axis=0)).mean()) if len(colours) > 2 else 0.0


def measure_video(path, runner, options):
    """Lip-sync a video to its own audio. Returns what the source has and the result, by name.

    Jitter in "silence" and in "speech"; "flicker" in grey levels.
    """
    clip = open_clip(path, path, options)
    source, result = measure(clip, None, IMG_SIZE), measure(clip, lipsynced(clip, runner, options), IMG_SIZE)
    silence = silence_weights(clip.audio.wav, clip.num_frames, clip.source.fps)
    silence = silence[np.round(result.times_s * float(clip.source.fps)).astype(int)]
    points = source.points[: len(silence)], result.points
    crops = source.crops[: len(silence)], result.crops
    return {
        name: tuple(jitter(some, where) for some in points)
        for name, where in (("silence", silence == 1), ("speech", silence == 0))
    } | {"flicker": tuple(map(flicker, crops, points))}


@script
def main(argv=None):
    """Print a line for each video, and one for all."""
    args = parse_args(argv)
    runner = load_runner(args.checkpoint_path, backend="openvino")
    options = LipsyncOptions(max_sec=args.max_s, detector=args.detector, reference=args.reference)
    columns = ("video", "frames of silence", "jitter in silence, source", "result", "ratio", "in speech", "moved")
    columns += ("flicker, source", "result", "ratio")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    sums, flickers = {name: [Jitter(0.0, 0), Jitter(0.0, 0)] for name in ("silence", "speech")}, []
    for path in args.videos:
        video = measure_video(path, runner, options)
        print_line(f"{path.parent.name}/{path.stem}", video)
        sums = {name: [a + b for a, b in zip(sums[name], video[name], strict=True)] for name in sums}
        flickers.append(video["flicker"])
    print_line("all", sums | {"flicker": np.mean(flickers, axis=0)})
    return 0


def print_line(name, video):
    """Print a line of the table. video: as of `measure_video`."""
    (source, result), (source_speech, result_speech) = video["silence"], video["speech"]
    moved = "-" if np.isnan(source.moved) else f"{source.moved:.2f}, {result.moved:.2f}"
    ratio = result.mean / max(source.mean, 1e-9)
    flicker_source, flicker_result = video["flicker"]
    print(
        f"| {name} | {source.frames} | {source.mean:.2f} | {result.mean:.2f} | {ratio:.2f} "
        f"| {source_speech.mean:.2f}, {result_speech.mean:.2f} | {moved} "
        f"| {flicker_source:.2f} | {flicker_result:.2f} | {flicker_result / max(flicker_source, 1e-9):.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
