"""Lip-sync while somebody speaks: frames a fixed time after their sound.

    python examples/live.py --face examples/astronaut.jpg --audio examples/speech.wav --out results/live.mp4
    python examples/live.py --face face.jpg --audio mic --raw | ffplay -f rawvideo -pixel_format bgr24 \\
        -video_size 512x512 -framerate 25 -
    arecord -f S16_LE -r 16000 -c 1 -t raw | python examples/live.py --face face.jpg --audio - --out live.mp4
    python examples/live.py --face face.jpg --audio speech.wav --measure

--audio: a file, played at its own speed; mic, which needs the package sounddevice; or - for raw PCM on stdin (16 kHz,
mono, signed 16 bit). --measure prints the delay, and how far the mouth's motion is that of the whole file at once.
"""

import argparse
import contextlib
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from lipgan.faces.landmarks import NUM_LIPS, opening
from lipgan.inference.live import BLOCK, SAMPLE_RATE, live_frames
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.pipeline import lipsync_frames
from lipgan.inference.runner import load_runner
from lipgan.media.audio import load_wav
from lipgan.media.video import VideoWriter
from lipgan.models.backend import is_installed
from lipgan.utils.cli import UserError, interrupted_by_sigterm, positive_float, script, warn


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--face", type=pathlib.Path, required=True, help="image or video of the face")
    add("--audio", required=True, help="audio file, mic, or - for stdin")
    add("--out", type=pathlib.Path, help="mp4 to write; with the sound, where --audio is a file")
    add("--raw", action="store_true", help="write the frames to stdout, BGR, 8 bits each")
    add("--measure", action="store_true", help="print delays, and compare with the whole file at once")
    add("--checkpoint_path", type=pathlib.Path, help="the generator (default: the shipped warp)")
    add("--fps", type=positive_float, default=25, help="frames per second of a still image (default: %(default)g)")
    add("--resize_factor", type=positive_float, help="divide the frame's sides by this: less work")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Show or write live frames until the speech ends. Returns an exit status."""
    args = parse_args(argv)
    options = LipsyncOptions(fps=args.fps, keep_fps=True, resize_factor=args.resize_factor)
    blocks = microphone() if args.audio == "mic" else standard_input() if args.audio == "-" else as_it_plays(args.audio)
    runner = Recorder(load_runner(args.checkpoint_path, batch_size=1))
    delays, numbers = [], []
    with interrupted_by_sigterm(), contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        write = writer(args, stack)
        for frame in live_frames(args.face, blocks, runner, options):
            write(frame)
            delays.append(frame.delay_s)
            numbers.append(frame.number)
    if not delays:
        raise UserError(f"--audio {args.audio} has no sound; give another one")
    print_delays(delays, numbers)
    if args.measure and args.audio not in ("mic", "-"):
        compare(args, options, runner)
    return 0


def as_it_plays(path, waits=True):
    """Return the blocks of a file, an iterator; waits: each is given when it would have been heard."""
    wav = load_wav(pathlib.Path(path))
    wav = np.pad(wav, (0, -len(wav) % BLOCK))

    def play():
        start_s = time.monotonic()
        for first in range(0, len(wav), BLOCK):
            if waits:
                time.sleep(max(0.0, start_s + (first + BLOCK) / SAMPLE_RATE - time.monotonic()))
            yield wav[first : first + BLOCK]

    return play()


def standard_input():
    """Yield the blocks of raw PCM on stdin."""
    while data := sys.stdin.buffer.read(2 * BLOCK):
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768


def microphone():
    """Return the blocks of the system's microphone, an iterator. Raises UserError where there is none."""
    if not is_installed("sounddevice"):
        raise UserError(
            "--audio mic needs the package sounddevice; pip install sounddevice, or pipe PCM into --audio -"
        )
    try:
        import sounddevice

        stream = sounddevice.InputStream(SAMPLE_RATE, BLOCK, channels=1, dtype="float32")
    except Exception as e:  # PortAudio's own errors, and an OSError where its library is missing
        raise UserError(f"no microphone can be opened ({e}); connect one, or pipe PCM into --audio -") from None

    def record():
        with stream:
            while True:
                yield stream.read(BLOCK)[0][:, 0].copy()

    return record()


def writer(args, stack):
    """Return a function that writes a LiveFrame; a frame that was left out is the one before it again."""
    state = {"video": None, "next": 0}

    def write(frame):
        repeats, state["next"] = frame.number + 1 - state["next"], frame.number + 1
        if args.raw:
            for _ in range(repeats):
                sys.stdout.buffer.write(frame.image.tobytes())
            sys.stdout.buffer.flush()
        if args.out:
            if state["video"] is None:
                height, width = frame.image.shape[:2]
                audio = None if args.audio in ("mic", "-") else args.audio
                state["video"] = stack.enter_context(VideoWriter(args.out, width, height, frame.fps, audio=audio))
            for _ in range(repeats):
                state["video"].write(frame.image)

    return write


class Recorder:
    """A GeneratorRunner that keeps how far the mouth opens in each frame."""

    def __init__(self, runner):
        self._runner, self.openings = runner, []

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def reset(self, still=False):
        """As of GeneratorRunner; the openings are forgotten."""
        self._runner.reset(still)
        self.openings = []
        return self

    def predict_mouths(self, *inputs):
        """As of GeneratorRunner."""
        maps = self._runner.predict_mouths(*inputs)
        self.openings += [float(opening(lips.reshape(NUM_LIPS, 2))) for lips in maps[0]]
        return maps


def print_delays(delays, numbers):
    """Print how late the frames are, on stderr."""
    late, omitted = 1000 * np.array(delays), numbers[-1] + 1 - len(numbers)
    warn(
        f"{len(late)} frames, {omitted} left out; delay from a sound to its frame: median {np.median(late):.0f} ms, "
        f"95 % below {np.percentile(late, 95):.0f} ms, largest {late.max():.0f} ms"
    )


def compare(args, options, runner):
    """Print the correlation of the mouth's opening with that of the whole file at once, on stderr.

    All frames are made again, as if the machine were quick enough: the clock has no part in it.
    """
    if not runner.needs_lips:
        raise UserError("--measure compares lips, which only a warp generator predicts")
    openings = []
    start_s = time.process_time()
    for frames in (
        live_frames(args.face, as_it_plays(args.audio, waits=False), runner, options, skip=False),
        lipsync_frames(args.face, args.audio, runner, options),
    ):
        count = sum(1 for _ in frames)
        openings.append(np.array(runner.openings))
        warn(f"{count} frames, processor time {1000 * (time.process_time() - start_s) / count:.0f} ms each")
        start_s = time.process_time()
    count = min(map(len, openings))
    live, whole = (values[:count] for values in openings)
    r = np.corrcoef(live, whole)[0, 1]
    warn(f"mouth opening, live against whole file: correlation {r:.3f}, range {live.std() / whole.std():.2f}")


if __name__ == "__main__":
    sys.exit(main())
