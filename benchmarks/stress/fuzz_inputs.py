"""Fuzz the readers: mutated media files, checkpoints and JSON must be read or refused in one line.

    python benchmarks/stress/fuzz_inputs.py --count 2000
    python benchmarks/stress/fuzz_inputs.py --subject checkpoint --count 200 --seed 1 --keep /tmp/fuzz

Valid files of each kind are mutated (truncated, bytes flipped, boxes swapped, absurd sizes, rates and durations) and
read in a child process, which is killed when it takes over 30 s of processor time, two minutes
on the clock (it hangs, or the machine is very busy) or 2 GB of memory. A case passes when the reader returns, or raises
a UserError of one line; it fails with a traceback, a crash, over a limit, or where it starts a program, opens a
connection or unpickles. The last line on stdout is a JSON object of counts; the exit status is 1 if a case failed.
Linux only: it needs fork and /proc.
"""

import argparse
import collections
import functools
import itertools
import json
import os
import pathlib
import resource
import struct
import sys
import tempfile
import time
import traceback
from fractions import Fraction

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ["KERAS_BACKEND"] = "openvino"  # building a small network is enough

CPU_S, WALL_S, MEMORY_BYTES = 30, 120, 2 * 2**30
WATCH_S = 0.005  # between two looks at a child's memory: it can grow by some 50 MB meanwhile
DATA_BYTES = 8 * 2**30  # a backstop in the kernel, for private memory that is claimed, used or not
PAGE_BYTES = resource.getpagesize()
VIDEO_CODECS = {  # container: video codec, audio codec, Hz
    "mp4": ("libx264", "aac", 44_100),
    "mov": ("mpeg4", "pcm_s16le", 48_000),
    "mkv": ("libx264", "libmp3lame", 44_100),
    "webm": ("libvpx-vp9", "libopus", 48_000),
    "avi": ("mjpeg", "pcm_s16le", 16_000),
    "mpg": ("mpeg2video", "mp2", 44_100),
}
AUDIO_CODECS = {"wav": "pcm_f32le", "mp3": "libmp3lame"}
WIDTH = 1 / 16  # of the network whose checkpoints are mutated
IMAGES = ("jpg", "png", "gif", "webp")
PASSED, REFUSED, TRACEBACK, SEVERAL_LINES, RAN_CODE = 0, 10, 20, 21, 22  # exit statuses of a child
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
TAGS = (b"mvhd", b"tkhd", b"mdhd", b"elst", b"stts", b"stsz", b"stsd", b"stco", b"avih", b"strh", b"strf", b"fmt ",
        b"fact", b"data", b"IHDR", b"acTL", b"fcTL", b"VP8X", b"ANMF", b"avcC", b"esds", b"\x2a\xd7\xb1", b"\x44\x89",
        b"\xff\xc0", b"\x00\x00\x01\xb3", b"HDF", b"OHDR", b"TREE", b"SNOD")  # fmt: skip
ABSURD = (0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


# Mutations ------------------------------------------------------------------------------------------------------------


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the data with one to three mutations."""
    for _ in range(rng.integers(1, 4)):
        data = rng.choice(MUTATIONS)(bytearray(data), rng) or b"\0"
    return bytes(data)


def truncated(data, rng):
    """Truncate the file."""
    return data[: rng.integers(1, len(data) + 1)]


def flipped(data, rng):
    """Overwrite up to 100 random bytes."""
    for at in rng.integers(0, len(data), rng.integers(1, 101)):
        data[at] = rng.integers(256)
    return data


def swapped(data, rng):
    """Swap two adjacent pieces, like boxes in the wrong order."""
    a, b, c = sorted(rng.integers(0, len(data) + 1, 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def repeated(data, rng):
    """Repeat a piece of the file."""
    a, b = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:b] + data[a:b] + data[b:]


def blanked(data, rng):
    """Fill a piece with 0x00 or 0xff."""
    a = rng.integers(0, len(data))
    b = min(len(data), a + rng.integers(1, 2_000))
    data[a:b] = bytes([rng.choice([0, 255])]) * (b - a)
    return data


def absurd_number(data, rng):
    """Overwrite four bytes with an extreme number, in the first 200 bytes or behind a tag of a header."""
    tags = [tag for tag in TAGS if tag in data]
    at = rng.integers(0, min(200, len(data)))
    if tags and rng.random() < 0.8:
        at = data.index(rng.choice(np.array(tags, object))) + rng.integers(2, 60)
    number = struct.pack(rng.choice(["<I", ">I"]), ABSURD[rng.integers(len(ABSURD))])
    data[at : at + 4] = number[: max(0, len(data) - at)]
    return data


MUTATIONS = [truncated, flipped, swapped, repeated, blanked, absurd_number, absurd_number, absurd_number]


# Valid files ----------------------------------------------------------------------------------------------------------


def media_files(folder):
    """Write a small valid file of each of the twelve formats. Returns their paths."""
    paths = [_video(folder / f"x.{kind}", *codecs) for kind, codecs in VIDEO_CODECS.items()]
    paths += [_audio(folder / f"x.{kind}", codec) for kind, codec in AUDIO_CODECS.items()]
    return paths + [_image(folder / f"x.{kind}") for kind in IMAGES]


def _video(path, video_codec, audio_codec, rate, num_frames=25):
    import av

    from lipgan.media import audio

    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        video_stream, audio_stream = container.add_stream(video_codec, 25), container.add_stream(audio_codec, rate)
        video_stream.width, video_stream.height = 64, 48
        video_stream.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
        video_stream.options = {"g": "8"}
        audio_stream.layout = "mono"
        for k in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, k, axis=1), "bgr24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(video_stream.encode(frame))
            samples = _tone(rate // 25, k * rate // 25, rate)
            frame = audio.as_frame(audio.Block(samples[None], rate, "mono"))
            frame.pts, frame.time_base = k * rate // 25, Fraction(1, rate)
            container.mux(audio_stream.encode(frame))
        container.mux(video_stream.encode(None))
        container.mux(audio_stream.encode(None))
    return path


def _tone(count, first, rate):
    return (0.5 * np.sin(2 * np.pi * 440 / rate * np.arange(first, first + count))).astype(np.float32)


def _audio(path, codec):
    import av

    from lipgan.media import audio

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 16_000)
        stream.layout = "stereo"
        block = audio.Block(np.stack([_tone(16_000, 0, 16_000)] * 2), 16_000, "stereo")
        frame = audio.as_frame(block)
        frame.pts, frame.time_base = 0, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _image(path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    frames = [Image.fromarray(np.roll(pixels, 8 * k, axis=0)) for k in range(4)]
    moving = {} if path.suffix == ".jpg" else {"save_all": True, "append_images": frames[1:], "duration": 40}
    frames[0].save(path, **moving)
    return path


def checkpoint_files(folder):
    """Write a small checkpoint with its JSON, and a legacy .h5. Returns their paths."""
    import h5py

    from generator import build_generator
    from lipgan.models import checkpoint
    from lipgan.models.metadata import json_path

    checkpoint._build = functools.cache(checkpoint._build)  # children inherit the networks that this process builds
    model = build_generator("basic", 96, WIDTH)
    path, legacy = folder / "x.weights.h5", folder / "x.h5"
    checkpoint.save_generator(path, model, {"width": WIDTH})
    with h5py.File(legacy, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [f"layer{n}".encode() for n in range(len(layers))]
        for n, layer in enumerate(layers):
            names = [f"layer{n}/w{i}".encode() for i in range(len(layer.weights))]
            group = file.create_group(f"layer{n}")
            group.attrs["weight_names"] = names
            for name, weight in zip(names, layer.weights, strict=True):
                group[name.decode()] = np.asarray(weight)
    return [path, legacy, json_path(path)]


# Readers --------------------------------------------------------------------------------------------------------------


def read_media(path):
    """Read a file as the programs do: as an image, or else as a video with all frames, and its audio."""
    from lipgan.media import audio, image, video
    from lipgan.utils.cli import UserError

    errors = []
    try:
        if image.read_image(path) is None:
            info = video.probe(path)
            for frame in video.read_frames(info, 25):
                assert frame.shape == (*info.frame_shape, 3)
    except UserError as e:
        errors.append(e)
    try:
        assert np.isfinite(audio.load_wav(path)).all()
    except UserError as e:
        errors.append(e)
    return errors


def read_checkpoint(path):
    """Load a checkpoint; of a JSON file the checkpoint beside it."""
    from lipgan.models.checkpoint import load_generator
    from lipgan.utils.cli import UserError

    try:
        load_generator(path.with_suffix(".weights.h5") if path.suffix == ".json" else path)
    except UserError as e:
        return [e]
    return []


# Files, reader, and how many readings it tries: images have no audio, and audio has no frames.
SUBJECTS = {"media": (media_files, read_media, 2), "checkpoint": (checkpoint_files, read_checkpoint, 1)}


# One case in a child process ------------------------------------------------------------------------------------------


def run_case(read, path, report):
    """Read a file in a child that is killed over a limit. Returns (outcome, CPU seconds, peak memory in bytes)."""
    start, killed_for = time.monotonic(), None
    child = os.fork()
    if child == 0:
        _child(read, path, report)
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if _memory(child) > MEMORY_BYTES:
            killed_for = "too much memory"
        elif time.monotonic() - start > WALL_S:
            killed_for = "too slow"
        if killed_for:
            os.kill(child, 9)
        time.sleep(WATCH_S)
    outcomes = {PASSED: "read", REFUSED: "refused", TRACEBACK: "traceback", SEVERAL_LINES: "several lines"}
    outcomes[RAN_CODE] = "ran code"
    memory, cpu_s = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
    outcome = killed_for or outcomes.get(os.waitstatus_to_exitcode(status), "crash")
    outcome = "too slow" if cpu_s > CPU_S else "too much memory" if memory > MEMORY_BYTES else outcome
    return outcome, cpu_s, memory


def _memory(child):
    """Return the resident memory of a process in bytes."""
    return int(pathlib.Path(f"/proc/{child}/statm").read_text().split()[1]) * PAGE_BYTES


def _child(read, path, report):
    """Read the file under limits, and exit with the status of the outcome."""
    code = TRACEBACK
    sys.addaudithook(lambda event, _: event in FORBIDDEN and os._exit(RAN_CODE))
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S + 1, CPU_S + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        messages = [str(error) for error in read(path)]
        code = REFUSED if messages else PASSED
        if any("\n" in message for message in messages):
            code = SEVERAL_LINES
        report.write_text("\n".join(messages), errors="replace")
    except BaseException:
        report.write_text(traceback.format_exc(), errors="replace")
    finally:
        os._exit(code)


def fuzz(subject, count, seed, keep=None):
    """Run `count` cases. Returns the counts by outcome and the largest CPU time and memory; prints what fails."""
    write, read, num_readings = SUBJECTS[subject]
    outcomes, worst = collections.Counter(), {"cpu_s": 0.0, "memory_mb": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        originals = write(folder)
        others = {path: path.read_bytes() for path in originals}
        for path in originals:
            if len(errors := read(path)) == num_readings:
                raise SystemExit(f"the valid {path.name} is refused: {errors[0]}")
        case, report = folder / "case", folder / "report.txt"
        case.mkdir()
        for number, original in zip(range(count), itertools.cycle(originals), strict=False):
            rng = np.random.default_rng((seed, number))
            for path, data in others.items():
                (case / path.name).write_bytes(data)
            target = case / original.name
            target.write_bytes(mutate(others[original], rng))
            report.unlink(missing_ok=True)
            outcome, cpu_s, memory = run_case(read, target, report)
            outcomes[outcome] += 1
            worst = {name: max(worst[name], now) for name, now in (("cpu_s", cpu_s), ("memory_mb", memory / 2**20))}
            if outcome not in ("read", "refused"):
                text = report.read_text(errors="replace").strip().splitlines() if outcome == "traceback" else []
                print(f"case {number} ({original.name}): {outcome}, {cpu_s:.1f} s, {memory / 2**20:.0f} MB", *text[-6:])
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}_{number}_{original.name}").write_bytes(target.read_bytes())
    return {**outcomes, **{name: round(value, 1) for name, value in worst.items()}}


def main(argv=None):
    """Fuzz one kind of files. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, default="media", help="what is read (default: %(default)s)")
    parser.add_argument("--count", type=int, default=2_000, help="mutated files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files that fail")
    args = parser.parse_args(argv)
    result = fuzz(args.subject, args.count, args.seed, args.keep)
    print(json.dumps({"subject": args.subject, "count": args.count, "seed": args.seed, **result}))
    return int(any(name not in ("read", "refused", "cpu_s", "memory_mb") for name in result))


if __name__ == "__main__":
    sys.exit(main())
