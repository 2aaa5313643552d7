"""Draw enlarged mouths of lip-synced images and videos, frame by frame, to be judged by eye.

    python -m experiments.mouth_sheet --out sheet.png --audio examples/speech.wav --faces examples/astronaut.jpg

Each face has a row of mouths at equal distances in time; of a video two, its own mouths above the result's. Without
--audio videos say what they say themselves. Mouths are as large as --side, whatever their size in the frame, and are
drawn before encoding. --moments beyond 15 continue below: a multiple of 15.
"""

import argparse
import pathlib
import tempfile

import cv2
import numpy as np

from experiments.measured import lipsynced, open_clip
from lipgan.faces import crop
from lipgan.faces.landmarks import LIPS
from lipgan.inference.options import LipsyncOptions, expression_strength
from lipgan.inference.runner import load_runner
from lipgan.utils.cli import script

COLUMNS = 15  # mouths in a row
REACH = 0.8  # half of a drawn mouth's side, in mouth widths


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faces", nargs="+", required=True, type=pathlib.Path, help="images and videos")
    add("--out", required=True, type=pathlib.Path, help="the PNG")
    add("--audio", type=pathlib.Path, help="the speech (default: a video's own)")
    add("--checkpoint_path", type=pathlib.Path, help="the generator (default: the shipped weights)")
    add("--expression", type=expression_strength, default=LipsyncOptions.expression, help="as of batch_inference.py")
    add("--static", action="store_true", help="of videos, the first frame as a still image")
    add("--first_s", type=float, default=0.0, help="second at which the sheet begins (default: %(default)g)")
    add("--max_s", type=float, default=3.0, help="second at which it ends (default: %(default)g)")
    add("--moments", type=int, default=15, help="mouths of each face (default: %(default)s)")
    add("--side", type=int, default=160, help="pixels of a mouth (default: %(default)s)")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Draw the sheet."""
    args = parse_args(argv)
    runner = load_runner(args.checkpoint_path, backend="openvino")
    options = LipsyncOptions(detector="hog", max_sec=args.max_s, expression=args.expression, static=args.static)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for face in args.faces:
            clip = open_clip(face, args.audio or face, options, cache)
            first = min(round(args.first_s * float(clip.source.fps)), clip.num_frames - 1)
            picks = np.linspace(first, clip.num_frames - 1, args.moments).round().astype(int)
            result = [frame for n, frame in enumerate(lipsynced(clip, runner, options)) if n in picks]
            if not clip.source.is_still and clip.num_frames <= len(clip.track.found):
                source = [frame for n, frame in enumerate(clip.source.frames(clip.num_frames)) if n in picks]
                rows.append(mouths(clip, source, picks, args.side))
            rows.append(mouths(clip, result, picks, args.side))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    width = min(COLUMNS, args.moments) * args.side
    rows = [np.pad(row, ((0, 0), (0, -row.shape[1] % width), (0, 0))) for row in rows]
    parts = [row[:, start : start + width] for start in range(0, rows[0].shape[1], width) for row in rows]
    cv2.imwrite(str(args.out), np.vstack(parts))
    print(args.out)
    return 0


def mouths(clip, frames, picks, side):
    """Return a row of enlarged mouths, (side, columns * side, 3), of the result's frames with these numbers."""
    row = []
    for number, frame in zip(picks.tolist(), frames, strict=True):
        index = clip.frame_index(number)
        if not clip.track.found[index]:
            row.append(np.zeros((side, side, 3), np.uint8))
            continue
        lips = clip.track.points[index][LIPS]
        x, y = lips.mean(axis=0)
        half = REACH * np.linalg.norm(lips[6] - lips[0])
        box = np.round([y - half, y + half, x - half, x + half]).astype(int)
        mouth = cv2.resize(crop.cut(frame, box), (side, side), interpolation=cv2.INTER_CUBIC)
        row.append(cv2.putText(mouth, str(number), (3, side - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255)))
    return np.hstack(row)


if __name__ == "__main__":
    raise SystemExit(main())
