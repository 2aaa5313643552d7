"""Turn a folder of talking-face videos into face crops and mel spectrograms at 25 frames a second, to train on.

    python preprocess.py --videos_data_root mvlrs_v1 --final_data_root lrs2_preprocessed --split train
    python preprocess.py --videos_data_root my_videos --final_data_root my_preprocessed --all

A second run does only what is missing. What could not be used is counted by reason, at the end and in preprocess.json.
"""

import argparse
import errno
import pathlib
import sys
import threading
import time
import traceback

import av
import dask.system
import distributed
import numpy as np
import tqdm

from audio_hparams import hparams
from lipgan.data.clip_folder import is_clip, write_clip
from lipgan.data.filelists import SPLITS
from lipgan.faces import crop
from lipgan.faces.detector import DETECTORS, FaceDetector
from lipgan.faces.tracker import find_boxes
from lipgan.media import audio, video
from lipgan.media.container import open_media, picture_stream
from lipgan.preprocessing.run_log import Outcome, begin, end, part_name, print_summary, sole_owner, summary
from lipgan.preprocessing.video_list import all_jobs, listed_jobs, shard_of
from lipgan.utils.cli import UserError, script
from lipgan.utils.parallel import in_workers

MIN_WHOLE = 0.9  # of a clip's seconds must be there, and of its frames undamaged
KILLED = "killed its worker process"
FATAL = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT}  # what the next clip would meet as well


class BadClip(Exception):
    """A clip that cannot be used; the message is the reason by which it is counted."""


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--videos_data_root", type=pathlib.Path, required=True, help="folder with main/<speaker>/<clip>.mp4, as LRS2")
    add("--final_data_root", type=pathlib.Path, required=True, help="folder to write the preprocessed clips to")
    add("--split", choices=SPLITS, default="train", help="which file list to do")
    add("--filelists", type=pathlib.Path, default="filelists/", help="folder of <split>.txt: <speaker>/<clip> a line")
    add("--all", action="store_true", help="do every video below --videos_data_root, without any list")
    add("--img_size", type=int, choices=range(96, 257, 32), default=96, help="side of the face crops, pixels")
    add(
        "--detector",
        choices=DETECTORS,
        default="cnn",
        help="dlib's CNN face detector, or the faster HOG",
    )
    add("--face_det_checkpoint", type=pathlib.Path, help="another .dat or .dat.bz2 for the CNN than the installed one")
    add(
        "--pads", type=int, nargs=4, default=[0, 0, 0, 0], metavar=tuple("TBLR"), help="pixels added round the face box"
    )
    add("--num_workers", type=positive, default=dask.system.CPU_COUNT, help="worker processes on this machine")
    add("--scheduler", help="address of a Dask scheduler, tcp://host:port, whose workers do it (see the README)")
    add(
        "--shard",
        type=i_of_n,
        metavar="I/N",
        help="do only the I-th of N parts of the list, I from 1, as job arrays do",
    )
    return parser.parse_args(argv)


def positive(text):
    """An int of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def i_of_n(text):
    """An argparse type: "3/64" to (3, 64)."""
    number, slash, count = text.partition("/")
    if not slash or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N")
    return int(number), int(count)


def look_through(source):
    """Decode a whole video. Returns (frames, those that are damaged or cannot be decoded, seconds the file claims).

    The seconds are 0 for a kind of file that does not say them, such as mpg.
    """
    frames = damaged = 0
    with open_media(source) as container:
        stream = picture_stream(container)
        stream.thread_type = "AUTO"
        says_length = {"mp4", "matroska", "avi"} & set(container.format.name.split(","))
        claimed_s = (container.duration or 0) / av.time_base if says_length else 0.0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return frames, damaged, claimed_s
                for frame in packet.decode():
                    frames += 1
                    damaged += frame.is_corrupt
            except av.EOFError:
                return frames, damaged, claimed_s
            except av.FFmpegError:
                damaged += 1


def preprocess_clip(source, folder, detector, img_size=96, pads=(0, 0, 0, 0)):
    """Write one video's crops, mels and sound to `folder`. Returns its Outcome, with the frames at hparams.fps.

    The video is read frame by frame, once for the boxes and once more for the crops, so that it never lies in memory.
    Raises BadClip with the reason when it cannot be used, OSError when `folder` cannot be written.
    """
    source = pathlib.Path(source)
    if source.stat().st_size == 0:
        raise BadClip("empty file")
    try:
        info = video.probe(source)
    except UserError as e:
        raise BadClip("no readable video") from e
    if not info.has_audio:
        raise BadClip("no sound")
    try:
        wav = audio.load_wav(source)
    except UserError as e:
        raise BadClip("no readable sound") from e
    decoded, damaged, claimed_s = look_through(source)
    if max(info.duration_s, len(wav) / hparams.sample_rate) < MIN_WHOLE * claimed_s:
        raise BadClip("cut-off file")
    if damaged > (1 - MIN_WHOLE) * decoded:
        raise BadClip("damaged video")
    if round(info.duration_s * hparams.fps) < hparams.min_crops:
        raise BadClip(f"fewer than {hparams.min_crops} frames")
    if len(wav) < hparams.sample_rate * hparams.mel_window / hparams.mels_per_second:
        raise BadClip("sound too short")
    boxes, found = find_boxes(video.read_frames(source, fps=hparams.fps), hparams.fps, detector, pads)
    if not found.any():
        raise BadClip("no face")
    if found.sum() < hparams.min_crops:
        raise BadClip(f"fewer than {hparams.min_crops} faces")
    frames = zip(video.read_frames(source, fps=hparams.fps), boxes, found, strict=True)
    crops = (crop.crop(frame, box, img_size) for frame, box, has_face in frames if has_face)
    write_clip(folder, crops, np.flatnonzero(found), boxes[found], audio.melspectrogram(wav), wav, hparams.fps)
    return Outcome("", len(found), int(found.sum()), damaged)


def do_job(source, folder, detector_kind, checkpoint, img_size, pads):
    """`preprocess_clip` in a worker, which keeps one detector a thread. Returns an Outcome, also for a bad clip."""
    worker, begun = distributed.get_worker(), time.perf_counter()
    kept = f"lipgan_detector_{threading.get_ident()}_{detector_kind}_{checkpoint}"  # a cluster outlives a run
    if not hasattr(worker, kept):
        setattr(worker, kept, FaceDetector(detector_kind, checkpoint))
    if is_clip(folder):  # written by a worker that was killed before it could say so
        return Outcome("")
    try:
        outcome = preprocess_clip(source, folder, getattr(worker, kept), img_size, pads)
    except BadClip as e:
        return Outcome(str(e), seconds=time.perf_counter() - begun)
    except OSError as e:
        if is_clip(folder):  # another worker, of a run that was killed meanwhile, was faster
            return Outcome("")
        if e.errno in FATAL:
            raise
        return Outcome(f"unexpected error ({e.strerror or e})", seconds=time.perf_counter() - begun)
    except Exception as e:  # one odd clip of a hundred thousand must not stop the others: it is counted and named
        line = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{pathlib.Path(line.filename).name}:{line.lineno}"
        return Outcome(f"unexpected error ({type(e).__name__} in {where})", seconds=time.perf_counter() - begun)
    return outcome._replace(seconds=time.perf_counter() - begun)


@script
def main(argv=None):
    """Preprocess a file list's videos, or all. Returns the exit status: 1 when not a single clip could be used."""
    args = parse_args(argv)
    # Absolute: workers on other machines have other working directories.
    root, videos_root = args.final_data_root.absolute(), args.videos_data_root.absolute()
    run_name, shard = "all" if args.all else args.split, args.shard
    ours = {"img_size": args.img_size, "detector": args.detector, "pads": list(args.pads)}
    checkpoint = args.face_det_checkpoint and args.face_det_checkpoint.absolute()
    if checkpoint:
        FaceDetector(args.detector, checkpoint)  # a wrong file is known now, not in every worker
    jobs, missing = (all_jobs(videos_root), []) if args.all else listed_jobs(videos_root, args.split, args.filelists)
    jobs, missing = shard_of(jobs, shard), shard_of(missing, shard)
    part = part_name(run_name, shard) if shard else None
    with sole_owner(root, part, [job.name for job in jobs] if shard else None):
        earlier = begin(root, ours, run_name, shard)
        todo = [job for job in jobs if not is_clip(root / job.name)]
        settings = (args.detector, checkpoint, args.img_size, tuple(args.pads))
        work = [(job.source, str(root / job.name), *settings) for job in todo]
        num_before, outcomes = len(jobs) - len(todo), {}
        try:
            with tqdm.tqdm(total=len(jobs), initial=num_before, unit="clip", dynamic_ncols=True) as bar:
                for number, outcome in in_workers(do_job, work, min(args.num_workers, len(todo)), root, args.scheduler):
                    outcomes[todo[number].name] = outcome or Outcome(KILLED)
                    bar.update()
        finally:  # also where somebody stops it, so that the next run can take over what this one knows
            run = summary(outcomes, missing, num_before, earlier)
            end(root, run_name, shard, run)
    print_summary(run, args.final_data_root)
    return 0 if run["done"] or run["done_before"] or not (jobs or missing) else 1  # a shard may be empty


if __name__ == "__main__":
    sys.exit(main())
