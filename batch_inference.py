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
import io
import pathlib
import signal
import sys
import threading

import cv2

from lipgan import __version__
from lipgan.faces.detector import FaceDetector, overlap
from lipgan.inference import pipeline
from lipgan.inference.options import INPUTS, RANGES, check_inputs, check_media, check_numbers, check_result
from lipgan.inference.reference import WAYS
from lipgan.inference.source import open_footage, resized
from lipgan.media import video
from lipgan.media.image import read_picture
from lipgan.models.backend import BACKENDS, PRECISIONS, has_gpu, import_keras, set_backend
from lipgan.models.metadata import KINDS, check_kind, description
from lipgan.utils.cli import UserError, script
from lipgan.utils.files import atomic_write

PATHS = ("--checkpoint_path", "--face", "--audio", "--jobs", "--results_dir", "--outfile", "--face_det_checkpoint",
         "--ref_face", "--list_faces")  # fmt: skip


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
    add("--checkpoint_path", type=pathlib.Path,
        help="the generator: X.weights.h5 of train_unet.py or train.py, or a legacy .h5")
    add("--model", choices=KINDS,
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
    add("--list_faces", type=pathlib.Path, metavar="PNG",
        help="write the first picture of --face with numbered faces, and exit; needs no --audio and no checkpoint")
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
        help="what a video's generator looks at: fitted, each frame with one quiet mouth of the shot; same, the frame; "
        "closed, a frame whose mouth is shut; far, a distant frame (default: %(default)s)")
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
        help="of the generator's numbers; auto: bfloat16 where OpenVINO has it on this CPU and a residual generator "
        "is at work, else float32 (default: %(default)s)")
    add("--backend", choices=BACKENDS,
        help="what Keras runs on (default: KERAS_BACKEND if set, else tensorflow beside a GPU, openvino without)")
    # fmt: on
    args = parser.parse_args(with_dashes(sys.argv[1:] if argv is None else argv))
    if args.jobs and args.list_faces:
        parser.error("--list_faces is of one --face, not of --jobs")
    needed = ["face"] if args.list_faces else ["checkpoint_path"] + ([] if args.jobs else ["face", "audio"])
    if missing := [f"--{name}" for name in needed if getattr(args, name) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


def with_dashes(argv):
    """Let the name of a file begin with a dash: --face -x.jpg becomes --face=-x.jpg, which argparse understands."""
    joined = []
    for text in argv:
        named = joined and joined[-1] in PATHS and text.startswith("-")
        if named and (not text.startswith("--") or pathlib.Path(text).exists()):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


@script
def main(argv=None):
    """Make one video, or those of a list. Returns an exit status; the result's path is the last line on stdout."""
    args = parse_args(argv)
    if args.list_faces:
        return show_faces(args)
    if args.jobs is None:
        return make_video(args)
    from lipgan.inference.jobs import read_jobs, report, run_jobs

    own = list(sys.argv[1:] if argv is None else argv)
    lines, generators, results = read_jobs(args.jobs, columns=vars(args)), {}, set()

    def make(options):
        row = parse_line([*own, *options])
        if row.face is None or row.audio is None:
            raise UserError("the line lacks its face or its audio; fill in both")
        out = result_path(row)
        if out.absolute() in results:
            raise UserError(f"{out} is the result of an earlier line too; give each its own outfile")
        results.add(out.absolute())
        if out.exists() and not row.overwrite:
            return "was there"
        make_video(row, generators)
        return str(out)

    return report(run_jobs(lines, make))


def parse_line(options):
    """`parse_args`, but what it says against them is a UserError."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return parse_args(options)
    except SystemExit:
        raise UserError(told.getvalue().rpartition("error: ")[2].strip() or "no options of a video") from None


def checked(args):
    """The given files, all of which are there; numbers are checked too. Raises UserError."""
    check_numbers(args.face_box, **{name: getattr(args, name) for name in RANGES})
    inputs = {name: getattr(args, name) for name in INPUTS}
    check_inputs(**inputs)
    return list(inputs.values())


def result_path(args):
    """Where the video goes."""
    return args.outfile or args.results_dir / f"{args.face.stem}_{args.audio.stem}.mp4"


def make_video(args, generators=None):
    """Make the video of parsed options. generators: futures of what earlier calls loaded. Returns an exit status."""
    generators = {} if generators is None else generators
    out = result_path(args)
    inputs = checked(args)
    check_result(out, inputs, args.overwrite)
    if args.preview:
        check_result(out.with_suffix(".png"), inputs, args.overwrite, ending=".png")
    own_fps = check_media(args.face, args.audio)
    still = own_fps is None or args.static
    fps = None if args.keep_fps and not still else args.fps
    if own_fps is None and (args.start or args.end):
        note(f"--start and --end are for videos; {args.face} is a picture")
    if fps and not still and video.as_rate(fps) != own_fps:
        note(f"{args.face} has {float(own_fps):.5g} frames a second, the result {fps:g} (--keep_fps keeps its own)")
    stored = description(args.checkpoint_path)
    check_kind(args.checkpoint_path, stored, args.model)
    gpu = has_gpu()
    backend = set_backend(args.backend, default="tensorflow" if gpu else "openvino")  # the fastest on this machine
    batch_size = args.lipgan_batch_size or (64 if gpu and backend != "openvino" else 8)
    which = (args.checkpoint_path, args.model, still, batch_size, args.precision)

    with interrupted_by_sigterm(), concurrent.futures.ThreadPoolExecutor(1) as beside:
        if which not in generators:  # the network is loaded while the face is searched
            generators[which] = beside.submit(load_network, *which)
        stored = stored or {}
        pads = tuple(args.pads or stored.get("pads", (0, 0, 0, 0)))
        detector = args.detector or stored.get("detector", "cnn")
        warn_of_other_crops(stored, detector, pads)
        detector = FaceDetector(detector, args.face_det_checkpoint)
        frame = first_picture(args.face, args.start, args.resize_factor, fps) if args.face_box else None
        choice = chosen_face(detector, frame, args.face_index, args.face_box, args.ref_face)
        clip = pipeline.prepare(
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
        try:
            speaker, info, told, synthetic = generators[which].result()
        except Exception:
            del generators[which]  # the next video of a list may have more luck
            raise
        if told:
            note(told)
        warn_of_idle_gpu(backend, gpu)
        offset_ms = info["sync_offset_ms"] if args.sync_offset_ms is None else args.sync_offset_ms
        result = pipeline.write(
            clip,
            out,
            speaker,
            sync_offset_ms=offset_ms,
            silence_gate=args.silence_gate,
            crf=args.crf,
            lossless=args.lossless,
            comment=None if args.no_metadata else synthetic,
            preview=out.with_suffix(".png") if args.preview else None,
            side_by_side=args.side_by_side,
            progress=True,
        )
    if result.num_without_face:
        note(f"{result.num_without_face} of {result.num_frames} frames have no face and stay as they are")
    note(", ".join(f"{phase} {s:.1f} s" for phase, s in result.seconds.items()))
    print(result.path)
    return 0


def load_network(path, *which):
    """What `inference.load_speaker` gives, and what results say of themselves in their metadata. Imports Keras.

    Runs in a thread beside the search for the face.
    """
    import_keras()
    from lipgan.inference.runner import load_speaker

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    told = f"Synthetic: lips made by LipGAN in Keras 3, version {__version__}, with {path.name} ({digest[:12]})"
    return *load_speaker(path, *which), told


def first_picture(path, start_s, resize_factor, fps=None):
    """The picture, or the first frame of the video that is used, as large as it is used."""
    still = read_picture(path)
    frame = open_footage(path, start_s, fps=fps).first_frame() if still is None else still
    return resized(frame, resize_factor)


def show_faces(args):
    """Write the first picture of args.face with its faces numbered, and print their places. Returns the exit status."""
    from lipgan.faces.selection import draw_faces, list_faces

    check_result(args.list_faces, checked(args), args.overwrite, "list_faces", ".png")
    stored = description(args.checkpoint_path) if args.checkpoint_path else None
    detector = FaceDetector(args.detector or (stored or {}).get("detector", "cnn"), args.face_det_checkpoint)
    frame = first_picture(args.face, args.start, args.resize_factor, args.fps)
    squares = list_faces(detector, frame)
    with atomic_write(args.list_faces) as temporary:
        temporary.write_bytes(cv2.imencode(".png", draw_faces(frame, squares))[1])
    for number, square in enumerate(squares):
        print(f"--face_index {number}    --face_box {' '.join(str(round(v)) for v in square)}")
    note(f"{len(squares)} faces in the first picture of {args.face}")
    print(args.list_faces)
    return 0


def chosen_face(detector, frame, index, box, ref_face):
    """The FaceChoice that the options name; None where no face is found at the box, which is then used itself.

    frame: the first one, where a box is given.
    """
    from lipgan.faces.selection import SAME_PLACE, FaceChoice, placed

    picture = read_picture(ref_face) if ref_face else None
    if ref_face and picture is None:
        raise UserError(f"--ref_face {ref_face} is no picture; give a photo of the person")
    boxes = detector.detect_all(frame) if box else None
    choice = FaceChoice(index, box, picture, boxes)
    if box and not any(overlap(square, box) >= SAME_PLACE for square in placed(detector, frame, boxes)):
        note(f"no face is found at --face_box {' '.join(map(str, box))}: the box itself is used throughout")
        return None
    return choice


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
