"""Make the face of a picture or a video say what a sound says.

    python batch_inference.py --checkpoint_path weights.weights.h5 --face face.jpg --audio speech.wav
    python batch_inference.py --checkpoint_path lipgan_residual_mel.h5 --model residual --face V.mp4 --audio A.wav \\
        --results_dir results/ --fps 25 --pads 0 0 0 0
    python batch_inference.py --checkpoint_path weights.weights.h5 --jobs list.csv

Writes results/<face>_<audio>.mp4, and prints its path as the last line. A list has a line for each video: columns face,
audio, and any other option without its dashes. What is there already is left alone, so a list can be run again.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import signal
import sys
import threading

import cv2

import faces
import lipsync
import video
from audio import read_blocks
from description import check_kind, description
from errors import UserError, script, whole_file
from footage import open_footage, resized
from options import BACKENDS, PRECISIONS, VERSION, has_gpu, import_keras, set_backend
from pictures import read_picture
from reference import WAYS


def yes_or_no(text):
    """An explicit True or False, for argparse."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text.lower() == "true"


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # fmt: off
    add("--checkpoint_path", type=pathlib.Path, required=True,
        help="the generator: X.weights.h5 of train_unet.py or train.py, or a legacy .h5")
    add("--model", choices=("residual", "basic", "warp"),
        help="which generator it is (default: as the checkpoint says)")
    add("--face", type=pathlib.Path, help="picture or video of the face")
    add("--audio", type=pathlib.Path, help="what it is to say: a sound file, or a video with sound")
    add("--jobs", type=pathlib.Path, metavar="CSV", help="make many videos, with the weights loaded once (see above)")
    add("--results_dir", type=pathlib.Path, default="results/",
        help="folder for <face>_<audio>.mp4 (default: %(default)s)")
    add("--outfile", type=pathlib.Path, help="the result's path (.mp4), instead of --results_dir")
    add("--overwrite", action="store_true", help="replace an existing result")
    add("--static", type=yes_or_no, nargs="?", const=True, default=False, metavar="True|False",
        help="use the first frame of a video as a still picture (default: %(default)s)")
    add("--fps", type=float,
        help="frames a second of the result; a video is resampled by time (default: a video's own, 25 for a picture)")
    add("--keep_fps", action="store_true", help="a video keeps its own rate, whatever --fps says for still pictures")
    add("--max_sec", type=float, help="use only the first so many seconds of the sound (default: all)")
    add("--detector", choices=("cnn", "hog"), help="face detector: dlib's CNN or HOG (default: the checkpoint's)")
    add("--face_det_checkpoint", type=pathlib.Path, help="another .dat or .dat.bz2 for the CNN than the installed one")
    add("--face_index", type=int,
        help="which of several faces, counted from 0 from left to right (default: the largest)")
    add("--face_box", type=int, nargs=4, metavar=("T", "B", "L", "R"),
        help="the face at this place, brows to chin, in pixels; where none is found there, the box itself throughout")
    add("--ref_face", type=pathlib.Path, help="a picture of the person whose face is meant")
    add("--list_faces", type=pathlib.Path, metavar="PNG", help="write the first picture with numbered faces, and exit")
    add("--pads", type=int, nargs=4, metavar=("T", "B", "L", "R"),
        help="pixels by which the face's box grows at its top, bottom, left and right (default: the checkpoint's)")
    add("--sync_offset_ms", type=float,
        help="how many ms after a frame's middle lies the sound it is made from (default: the checkpoint's)")
    add("--start", type=float, default=0.0, help="use the video from this second on; the sound is used from its start")
    add("--end", type=float, help="use the video up to this second (default: its end)")
    add("--resize_factor", type=float, default=1.0,
        help="divide the picture's sides by this; boxes and pads are then in pixels of the smaller one")
    add("--side_by_side", action="store_true", help="put the source to the left of the result")
    add("--reference", choices=WAYS, default=WAYS[0],
        help="what a video's generator looks at: each frame with the mouth of one frame of the shot fitted in, each "
        "frame itself, one whose mouth is shut, or a far one (default: %(default)s)")
    add("--silence_gate", action=argparse.BooleanOptionalAction, default=True,
        help="bring the mouth to rest where the sound is silent for over 0.3 s")
    add("--box_cache", action=argparse.BooleanOptionalAction, default=True,
        help="keep where a video's face is in .boxes beside the result, for the next sound or checkpoint")
    add("--crf", type=float, default=16, help="H.264's quality from 0 to 51, lower is better (default: %(default)s)")
    add("--lossless", action="store_true",
        help="H.264 in RGB, bit-exact, for measurements: large, and few players show it")
    add("--preview", action="store_true", help="also write a PNG of 8 moments beside the result")
    add("--no_metadata", action="store_true",
        help="leave out the comment in the file that says that it is synthetic, and by what")
    add("--lipgan_batch_size", type=int, help="faces for the generator at a time (default: 8, on a GPU 64)")
    add("--face_det_batch_size", type=int, help="accepted and ignored: the detector takes one frame at a time")
    add("--n_gpu", type=int, default=1, help="accepted and ignored: one device makes one video")
    add("--precision", choices=PRECISIONS, default="auto",
        help="of the generator's numbers; auto: bfloat16 where the CPU has it and a residual or basic generator is at "
        "work, else float32 (default: %(default)s)")
    add("--backend", choices=BACKENDS,
        help="what Keras runs on (default: KERAS_BACKEND if set, else tensorflow beside a GPU, openvino without)")
    # fmt: on
    args = parser.parse_args(argv)
    if not args.jobs and (missing := [f"--{name}" for name in ("face", "audio") if getattr(args, name) is None]):
        parser.error(f"the following arguments are required: {', '.join(missing)} (or --jobs)")
    return args


@script
def main(argv=None):
    """Make one video, or those of a list. Returns an exit status; the result's path is the last line on stdout."""
    args = parse_args(argv)
    if args.jobs is None:
        return make_video(args)
    from jobs import read_jobs, report, run_jobs

    own = list(sys.argv[1:] if argv is None else argv)
    lines, generators = read_jobs(args.jobs), {}

    def make(options):
        row = parse_args([*own, *options])
        row.jobs, out = None, result_path(row)
        if out.exists() and not row.overwrite:
            return "was there"
        make_video(row, generators)
        return str(out)

    return report(run_jobs(lines, make))


def result_path(args):
    """Where the video goes."""
    return args.outfile or args.results_dir / f"{args.face.stem}_{args.audio.stem}.mp4"


def make_video(args, generators=None):
    """Make the video of parsed options. generators: futures of what earlier calls loaded. Returns an exit status."""
    generators = {} if generators is None else generators
    out = result_path(args)
    check_numbers(args)
    check_files(args, out)
    own_fps = check_media(args.face, args.audio)
    still = own_fps is None or args.static
    fps = None if args.keep_fps and not still else args.fps
    if fps and not still and video.as_rate(fps) != own_fps:
        note(f"{args.face} has {float(own_fps):.5g} frames a second, the result {fps:g} (--keep_fps keeps its own)")
    stored = description(args.checkpoint_path)
    check_kind(args.checkpoint_path, stored, args.model)
    gpu = has_gpu()
    backend = set_backend(args.backend, default="tensorflow" if gpu else "openvino")  # the fastest on this machine
    batch_size = args.lipgan_batch_size or (64 if gpu and backend != "openvino" else 8)
    which = (args.checkpoint_path, args.model, still, batch_size, args.precision)

    with interrupted_by_sigterm(), concurrent.futures.ThreadPoolExecutor(1) as beside:
        if not args.list_faces and which not in generators:  # the network is loaded while the face is searched
            generators[which] = beside.submit(load_network, *which)
        stored = stored or {}
        pads = tuple(args.pads or stored.get("pads", (0, 0, 0, 0)))
        detector = args.detector or stored.get("detector", "cnn")
        warn_of_other_crops(stored, detector, pads)
        detector = faces.FaceDetector(detector, args.face_det_checkpoint)
        if args.list_faces:
            frame = first_picture(args.face, args.start, args.resize_factor)
            return show_faces(detector, args.face, frame, args.list_faces)
        frame = first_picture(args.face, args.start, args.resize_factor) if args.face_box else None
        choice = chosen_face(detector, frame, args.face_index, args.face_box, args.ref_face)
        clip = lipsync.prepare(
            args.face,
            args.audio,
            fps=fps,
            detector=detector,
            pads=pads,
            boxes=None if choice else args.face_box,
            choice=choice,
            start_s=args.start,
            end_s=args.end,
            resize_factor=args.resize_factor,
            reference=args.reference,
            static=args.static,
            max_s=args.max_sec,
            box_cache=out.parent / ".boxes" if args.box_cache else None,
            progress=True,
        )
        speaker, info, told = generators[which].result()
        if told:
            note(told)
        warn_of_idle_gpu(backend, gpu)
        offset_ms = info["sync_offset_ms"] if args.sync_offset_ms is None else args.sync_offset_ms
        result = lipsync.write(
            clip,
            out,
            speaker,
            sync_offset_ms=offset_ms,
            silence_gate=args.silence_gate,
            crf=args.crf,
            lossless=args.lossless,
            comment=None if args.no_metadata else synthetic(args.checkpoint_path),
            preview=out.with_suffix(".png") if args.preview else None,
            side_by_side=args.side_by_side,
            progress=True,
        )
    if result.num_without_face:
        note(f"{result.num_without_face} of {result.num_frames} frames have no face and stay as they are")
    note(", ".join(f"{phase} {s:.1f} s" for phase, s in result.seconds.items()))
    print(result.path)
    return 0


def load_network(*which):
    """What `inference.load_speaker` gives; runs in a thread beside the search for the face. Imports Keras."""
    import_keras()
    from inference import load_speaker

    return load_speaker(*which)


def first_picture(path, start_s, resize_factor):
    """The picture, or the first frame of the video that is used, as large as it is used."""
    still = read_picture(path)
    frame = next(open_footage(path, start_s).frames(1)) if still is None else still
    return resized(frame, resize_factor)


def show_faces(detector, face, frame, out):
    """Write this first picture of `face` with its faces numbered, and print their places. Returns the exit status."""
    from choice import draw_faces, list_faces

    squares = list_faces(detector, frame)
    with whole_file(out) as temporary:
        temporary.write_bytes(cv2.imencode(".png", draw_faces(frame, squares))[1])
    for number, square in enumerate(squares):
        print(f"--face_index {number}    --face_box {' '.join(str(round(v)) for v in square)}")
    note(f"{len(squares)} faces in the first picture of {face}")
    print(out)
    return 0


def chosen_face(detector, frame, index, box, ref_face):
    """The FaceChoice that the options name; None where no face is found at the box, which is then used itself."""
    from choice import SAME_PLACE, FaceChoice, list_faces

    if box:
        squares = list_faces(detector, frame)
        if not any(faces.overlap(square, box) >= SAME_PLACE for square in squares):
            note(f"no face is found at --face_box {' '.join(map(str, box))}: the box itself is used throughout")
            return None
    picture = read_picture(ref_face) if ref_face else None
    if ref_face and picture is None:
        raise UserError(f"--ref_face {ref_face} is no picture; give a photo of the person")
    return FaceChoice(index, box, picture)


def synthetic(checkpoint_path):
    """What the result says of itself in its metadata."""
    with checkpoint_path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"Synthetic: lips made by LipGAN in Keras 3, version {VERSION}, with {checkpoint_path.name} ({digest[:12]})"


# Before anything is loaded --------------------------------------------------------------------------------------------


def check_numbers(args):
    """Raise UserError for a number that cannot be meant."""
    for name, low, high in (
        ("fps", video.SLOWEST, video.FASTEST),
        ("max_sec", 0.001, 1e6),
        ("sync_offset_ms", -5000, 5000),
        ("crf", 0, 51),
        ("start", 0, 1e6),
        ("end", 0.001, 1e6),
        ("resize_factor", 0.25, 32),
        ("face_index", 0, 1000),
        ("lipgan_batch_size", 1, 4096),
        ("n_gpu", 0, 1024),
    ):
        number = getattr(args, name)
        if number is not None and not low <= number <= high:
            raise UserError(f"--{name} {number:g} is out of range; give a number from {low:g} to {high:g}")
    if args.face_box:
        top, bottom, left, right = args.face_box
        if bottom - top < 8 or right - left < 8:
            raise UserError(
                f"--face_box {top} {bottom} {left} {right} is no box; give top, bottom, left, right in pixels"
            )


def check_files(args, out):
    """Raise UserError for files that are not there, and for a result that must not be written."""
    for option in ("checkpoint_path", "face", "audio", "face_det_checkpoint", "ref_face"):
        path = getattr(args, option)
        if path is not None and not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(f"--{option} {path} {found}; give the path of a file")
    if out.suffix.lower() != ".mp4":
        raise UserError(f"--outfile {out}: the result is an mp4; give a name that ends in .mp4")
    if out.is_dir():
        raise UserError(f"{out} is a folder; give another --outfile")
    if out.exists() and any(out.samefile(path) for path in (args.face, args.audio)):
        raise UserError(f"{out} is one of the inputs; give another --outfile or --results_dir")
    if out.exists() and not args.overwrite:
        raise UserError(f"{out} exists already; give --overwrite to replace it, or another --outfile")
    if args.preview and out.with_suffix(".png").exists() and not args.overwrite:
        raise UserError(f"{out.with_suffix('.png')} exists already; give --overwrite to replace it, or no --preview")
    folder = next(p for p in (out.parent, *out.parent.parents) if p.exists())
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, no folder; give another --results_dir or --outfile")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; give another --results_dir or --outfile")


def check_media(face, audio):
    """Raise UserError unless the face is a picture or a video and the audio has sound. Returns a video's own rate."""
    own_fps = None if read_picture(face) is not None else video.probe(face).fps
    with contextlib.closing(read_blocks(audio)) as blocks:
        next(blocks)
    return own_fps


# What Keras runs on ---------------------------------------------------------------------------------------------------


def warn_of_idle_gpu(backend, gpu):
    """Tell where TensorFlow cannot use the GPU that is there: the plain package has no CUDA."""
    import keras

    if gpu and backend == "tensorflow" and not any("gpu" in name for name in keras.distribution.list_devices()):
        note('warning: TensorFlow finds no GPU; pip install "tensorflow[and-cuda]", or --backend openvino for the CPU')


def warn_of_other_crops(stored, detector, pads):
    """Tell where faces are cropped in another way than those that the weights were trained on."""
    for option, here in (("detector", detector), ("pads", list(pads))):
        there = stored.get(option, here)
        if here != (list(there) if option == "pads" else there):
            note(f"warning: the weights were trained with --{option} {there}, not {here}; results will be worse")


@contextlib.contextmanager
def interrupted_by_sigterm():
    """Let SIGTERM end the block as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def note(text):
    """Say something on stderr: stdout is for the result's path."""
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
