"""Make the pictures of the README: a still image beside the video made from it, as an mp4 and as a strip of frames.

    python -m experiments.side_by_side

writes docs/demo.mp4 and docs/demo.png from examples/astronaut.jpg and examples/speech.wav, which are free to use, with
the shipped weights. The strip has the image itself, then frames of the video at equal distances in time.
"""

import argparse
import pathlib

import cv2
import numpy as np

from lipgan.faces import crop
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.pipeline import generate_frames
from lipgan.inference.preparation import load_audio, prepare
from lipgan.inference.runner import load_runner
from lipgan.inference.source import open_source
from lipgan.media.video import Encoding, VideoWriter
from lipgan.utils.cli import script
from lipgan.utils.files import atomic_write

ROOT = pathlib.Path(__file__).parents[1]
MARGIN = 0.06  # around the face box, in parts of it
TILES = 8  # of the strip
CRF = 23


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--face", type=pathlib.Path, default=ROOT / "examples" / "astronaut.jpg", help="default: the example")
    add("--audio", type=pathlib.Path, default=ROOT / "examples" / "speech.wav", help="default: the example")
    add("--checkpoint_path", type=pathlib.Path, help="the generator (default: the shipped weights)")
    add("--out", type=pathlib.Path, default=ROOT / "docs" / "demo", help="of the files, without ending")
    add("--side", type=int, default=320, help="pixels of a picture in the video, half in the strip (default: 320)")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Write the video and the strip."""
    args = parse_args(argv)
    options = LipsyncOptions()
    runner = load_runner(args.checkpoint_path, backend="openvino")
    options = options.with_defaults(runner.info)
    clip = prepare(open_source(args.face, options), load_audio(args.audio, options), options)
    box = around(clip.track.boxes[0])
    source = crop.crop(clip.source.first_frame(), box, args.side)
    video_path, strip_path = args.out.with_suffix(".mp4"), args.out.with_suffix(".png")
    picks = np.linspace(0, clip.num_frames - 1, TILES + 1).round().astype(int)[1:-1].tolist()
    still, writer = (
        [],
        VideoWriter(
            video_path, 2 * args.side, args.side, clip.source.fps, audio=clip.audio.track, encoding=Encoding(crf=CRF)
        ),
    )
    with writer:
        for number, (frame, _) in enumerate(generate_frames(clip, runner.reset(still=True), options)):
            face = crop.crop(frame, box, args.side)
            writer.write(np.hstack([source, face]))
            still += [face] * picks.count(number)
    tiles = [crop.resize_crop(face, args.side // 2) for face in (source, *still)]
    with atomic_write(strip_path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", np.hstack(tiles), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1])
    for path in (video_path, strip_path):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


def around(box):
    """Return a square (top, bottom, left, right) around a face box, with a margin."""
    top, bottom, left, right = (int(v) for v in box)
    half = round((0.5 + MARGIN) * (bottom - top))
    y, x = (top + bottom) // 2, (left + right) // 2
    return y - half, y + half, x - half, x + half


if __name__ == "__main__":
    raise SystemExit(main())
