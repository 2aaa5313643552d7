"""Turn a folder of talking-face videos into face crops and mel spectrograms at 25 frames a second, to train on.

    python preprocess.py --videos_data_root mvlrs_v1 --final_data_root lrs2_preprocessed --split train
    python preprocess.py --videos_data_root my_videos --final_data_root my_preprocessed --all

A second run does only what is missing. What could not be used is counted by reason, at the end and in preprocess.json.
"""

import argparse
import collections
import contextlib
import errno
import importlib.metadata
import pathlib
import platform
import shutil
import sys
import time
import traceback
import typing

import av
import dask.system
import distributed
import numpy as np
import tqdm

import audio
import faces
import video
from audio_hparams import hparams
from dataset import SPLITS, is_clip, read_filelist, read_settings, setting_differences, write_clip, write_settings
from errors import UserError, script
from workers import in_workers

ENDINGS = (".mp4", ".mpg", ".mpeg", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".ts", ".mts", ".3gp")
MIN_WHOLE = 0.9  # of a clip's seconds must be there, and of its frames undamaged
KILLED = "killed its worker process"
FATAL = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT}  # what the next clip would meet as well


class Job(typing.NamedTuple):
    """One clip to do: `name` is its folder below final_data_root, main/<speaker>/<clip>."""

    name: str
    source: str


class Outcome(typing.NamedTuple):
    """What became of a clip: an empty `reason` is a clip that was written."""

    reason: str
    num_frames: int = 0
    num_crops: int = 0
    num_damaged: int = 0  # frames that could not be decoded right
    seconds: float = 0.0


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
    add("--detector", choices=faces.DETECTORS, default="cnn", help="dlib's CNN face detector, or the faster HOG")
    add("--face_det_checkpoint", type=pathlib.Path, help="another .dat or .dat.bz2 for the CNN than the installed one")
    add(
        "--pads", type=int, nargs=4, default=[0, 0, 0, 0], metavar=tuple("TBLR"), help="pixels added round the face box"
    )
    add("--num_workers", type=positive, default=dask.system.CPU_COUNT, help="worker processes")
    return parser.parse_args(argv)


def positive(text):
    """An int of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def listed_jobs(videos_root, split, filelists):
    """The clips of a file list. Returns ([Job], [names of clips without a video])."""
    if not videos_root.is_dir():
        raise UserError(f"no folder {videos_root}; give the one that holds main/ with --videos_data_root")
    names = read_filelist(filelists / f"{split}.txt")
    if not names:
        raise UserError(f"{filelists / f'{split}.txt'} lists no clips; use another --split or --filelists, or --all")
    subset = "pretrain" if split == "pretrain" else "main"
    folder = videos_root / subset if (videos_root / subset).is_dir() else videos_root
    jobs, missing = [], []
    for name in names:
        candidates = (folder / (name + form) for ending in ENDINGS for form in (ending, ending.upper()))
        source = next((path for path in candidates if path.is_file()), None)
        if source is None:
            missing.append(f"{subset}/{name}")
        else:
            jobs.append(Job(f"{subset}/{name}", str(source)))
    if not jobs:
        raise UserError(
            f"none of the {len(names)} clips of {filelists / f'{split}.txt'} is in {folder} (such as {names[0]}.mp4); "
            "--videos_data_root must hold main/<speaker>/<clip>.mp4"
        )
    return jobs, missing


def all_jobs(videos_root):
    """Every video below a folder: <speaker> is the video's folder, <clip> its name without the ending.

    Where two would get one name, both are told apart by the folders above (joined by _), then by their endings.
    """
    if not videos_root.is_dir():
        raise UserError(f"no folder {videos_root}; give the one that holds the videos with --videos_data_root")
    sources = [
        p.relative_to(videos_root) for p in videos_root.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()
    ]
    sources = sorted(path for path in sources if not any(part.startswith(".") for part in path.parts))
    if not sources:
        raise UserError(f"no video below {videos_root} (looked for {' '.join(ENDINGS)})")

    def named(path, above, ending):
        subset = path.parts[0] if path.parts[0] in ("main", "pretrain") and len(path.parts) > 1 else None
        folders = path.parts[1 if subset else 0 : -1] or (videos_root.resolve().name or "video",)
        speaker = "_".join(folders) if above else folders[-1]
        clip = path.stem + (path.suffix.replace(".", "_") if ending else "")
        return f"{subset or 'main'}/{speaker}/{clip}"

    names = {}
    for above, ending in ((False, False), (True, False), (True, True)):
        counts = collections.Counter(names.get(path) or named(path, above, ending) for path in sources)
        for path in sources:
            if path not in names and counts[named(path, above, ending)] == 1:
                names[path] = named(path, above, ending)
    clashing = [str(path) for path in sources if path not in names]
    if clashing:
        raise UserError(f"{' and '.join(clashing[:2])} would get the same name; rename one of them")
    return [Job(names[path], str(videos_root / path)) for path in sources]


def look_through(source):
    """Decode a whole video. Returns (frames, those that are damaged or cannot be decoded, seconds the file claims).

    The seconds are 0 for a kind of file that does not say them, such as mpg.
    """
    frames = damaged = 0
    with audio.open_media(source) as container:
        stream = audio.picture_stream(container)
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
    boxes, found = faces.find_boxes(video.read_frames(source, fps=hparams.fps), hparams.fps, detector, pads)
    if not found.any():
        raise BadClip("no face")
    if found.sum() < hparams.min_crops:
        raise BadClip(f"fewer than {hparams.min_crops} faces")
    frames = zip(video.read_frames(source, fps=hparams.fps), boxes, found, strict=True)
    crops = (faces.crop(frame, box, img_size) for frame, box, has_face in frames if has_face)
    write_clip(folder, crops, np.flatnonzero(found), boxes[found], audio.melspectrogram(wav), wav, hparams.fps)
    return Outcome("", len(found), int(found.sum()), damaged)


def do_job(source, folder, detector_kind, checkpoint, img_size, pads):
    """`preprocess_clip` in a worker process, which keeps its one detector. Returns an Outcome, also for a bad clip."""
    worker, begun = distributed.get_worker(), time.perf_counter()
    if not hasattr(worker, "lipgan_detector"):
        worker.lipgan_detector = faces.FaceDetector(detector_kind, checkpoint)
    if is_clip(folder):  # written by a worker that was killed before it could say so
        return Outcome("")
    try:
        outcome = preprocess_clip(source, folder, worker.lipgan_detector, img_size, pads)
    except BadClip as e:
        return Outcome(str(e), seconds=time.perf_counter() - begun)
    except OSError as e:
        if e.errno in FATAL:
            raise
        return Outcome(f"unexpected error ({e.strerror or e})", seconds=time.perf_counter() - begun)
    except Exception as e:  # one odd clip of a hundred thousand must not stop the others: it is counted and named
        line = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{pathlib.Path(line.filename).name}:{line.lineno}"
        return Outcome(f"unexpected error ({type(e).__name__} in {where})", seconds=time.perf_counter() - begun)
    return outcome._replace(seconds=time.perf_counter() - begun)


@contextlib.contextmanager
def sole_owner(root):
    """Hold `root` for this run alone, and remove what killed runs left half-written. Raises UserError when held."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".preprocess.lock").open("w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows has no such lock
            pass
        except BlockingIOError:
            raise UserError(
                f"another preprocess.py is at work in {root}; wait for it, or use another --final_data_root"
            ) from None
        for leftover in [*root.glob(".tmp_*"), *root.glob("*/*/.tmp_*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


def check_settings(root, ours):
    """Refuse to mix data made with different options. Returns what preprocess.json says so far, brought up to date."""
    settings = read_settings(root)
    differences = setting_differences(settings, **ours)
    if differences:
        raise UserError(
            f"{root} was made with other options ({'; '.join(differences)}); use the same, or another --final_data_root"
        )
    packages = ("numpy", "opencv-python-headless", "dlib-bin", "av", "librosa")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {**ours, "hparams": hparams.as_dict(), "versions": versions, "runs": settings.get("runs", {})}


def summary(outcomes, missing, num_before, earlier):
    """What became of all clips of a list, for preprocess.json. outcomes: {name: Outcome} of this run.

    earlier: the summary of the run before, or {}; what it says of the clips that were there before is taken over.
    """
    failed = {name: outcome.reason for name, outcome in outcomes.items() if outcome.reason}
    failed |= dict.fromkeys(missing, "no video file")
    done = {name: outcome for name, outcome in outcomes.items() if not outcome.reason}
    earlier = earlier if num_before else {}
    seconds = [outcome.seconds for outcome in outcomes.values()] or [earlier.get("seconds_a_clip", 0)]
    damaged = {name: count for name, count in earlier.get("damaged_clips", {}).items() if name not in outcomes}
    damaged |= {name: outcome.num_damaged for name, outcome in done.items() if outcome.num_damaged}
    return {
        "done": len(done),
        "done_before": num_before,
        "skipped": dict(collections.Counter(failed.values()).most_common()),
        "frames": earlier.get("frames", 0) + sum(outcome.num_frames for outcome in done.values()),
        "crops": earlier.get("crops", 0) + sum(outcome.num_crops for outcome in done.values()),
        "seconds_a_clip": round(float(np.mean(seconds)), 3),
        "damaged_clips": dict(sorted(damaged.items())),
        "failed_clips": dict(sorted(failed.items())),
    }


def print_summary(run, root):
    """Tell the counts, and the names behind each reason (all of them are in preprocess.json)."""
    failed = run["failed_clips"]
    print(f"{run['done']} clips done, {run['done_before']} were there before, {len(failed)} skipped, in {root}")
    for reason, count in run["skipped"].items():
        names = [name for name, why in failed.items() if why == reason]
        print(f"  {count} skipped, {reason}: {' '.join(names[:5])}{' ...' if count > 5 else ''}")
    if run["damaged_clips"]:
        names = [f"{name} ({count})" for name, count in run["damaged_clips"].items()]
        print(
            f"  {len(names)} done, with a few damaged frames: {' '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
        )
    if run["frames"]:
        share = 100 * run["crops"] / run["frames"]
        print(f"{run['crops']} of {run['frames']} frames have a crop ({share:.2f} %); {run['seconds_a_clip']} s a clip")


@script
def main(argv=None):
    """Preprocess a file list's videos, or all. Returns the exit status: 1 when not a single clip could be used."""
    args = parse_args(argv)
    root, run_name = args.final_data_root, "all" if args.all else args.split
    ours = {"img_size": args.img_size, "detector": args.detector, "pads": list(args.pads)}
    detection = (args.detector, args.face_det_checkpoint, args.img_size, tuple(args.pads))
    if args.face_det_checkpoint:
        faces.FaceDetector(args.detector, args.face_det_checkpoint)  # a wrong file is known now, not in every worker
    if args.all:
        jobs, missing = all_jobs(args.videos_data_root), []
    else:
        jobs, missing = listed_jobs(args.videos_data_root, args.split, args.filelists)
    with sole_owner(root):
        settings = check_settings(root, ours)
        write_settings(root, settings)  # before the first clip: a run that is killed must not leave clips unexplained
        todo = [job for job in jobs if not is_clip(root / job.name)]
        work = [(job.source, str(root / job.name), *detection) for job in todo]
        num_before, outcomes = len(jobs) - len(todo), {}
        try:
            with tqdm.tqdm(total=len(jobs), initial=num_before, unit="clip", dynamic_ncols=True) as bar:
                for number, outcome in in_workers(do_job, work, min(args.num_workers, len(todo)), root):
                    outcomes[todo[number].name] = outcome or Outcome(KILLED)
                    bar.update()
        finally:  # also where somebody stops it, so that the next run can take over what this one knows
            run = summary(outcomes, missing, num_before, settings["runs"].get(run_name, {}))
            settings["runs"][run_name] = run
            write_settings(root, settings)
    print_summary(run, root)
    return 0 if run["done"] or run["done_before"] else 1


if __name__ == "__main__":
    sys.exit(main())
