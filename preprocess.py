"""Turn a folder of talking-face videos into face crops and mel spectrograms at 25 frames a second, to train on.

    python preprocess.py --videos_data_root mvlrs_v1 --final_data_root lrs2_preprocessed --split train
    python preprocess.py --videos_data_root my_videos --final_data_root my_preprocessed --all

Existing clips are skipped. Videos that cannot be used are counted by reason, at the end and in preprocess.json.
"""

import argparse
import contextlib
import pathlib

import dask.system

from lipgan.data.clip_folder import is_clip
from lipgan.data.filelists import DEFAULT_FOLDER, SPLITS
from lipgan.faces.detector import DETECTORS, FaceDetector
from lipgan.preprocessing.clip import ClipResult, ClipSettings, Status, run_job
from lipgan.preprocessing.run_log import RunLog, print_summary
from lipgan.preprocessing.video_list import Shard, all_jobs, listed_jobs
from lipgan.utils.cli import interrupted_by_sigterm, positive_int, script
from lipgan.utils.parallel import in_workers
from lipgan.utils.progress import tracked

KILLED = ClipResult(Status.FAILED, "killed its worker process")


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--videos_data_root", type=pathlib.Path, required=True, help="folder with main/<speaker>/<clip>.mp4, as LRS2")
    add("--final_data_root", type=pathlib.Path, required=True, help="folder to write the preprocessed clips to")
    add("--split", choices=SPLITS, default="train", help="file list to preprocess")
    add("--filelists", type=pathlib.Path, default=DEFAULT_FOLDER, help="folder of <split>.txt: <speaker>/<clip> a line")
    add("--all", action="store_true", help="preprocess every video below --videos_data_root, without a file list")
    add("--img_size", type=int, choices=range(96, 257, 32), default=96, help="side of the face crops, pixels")
    add("--detector", choices=DETECTORS, default="cnn", help="dlib's CNN face detector, or the faster HOG")
    add("--face_det_checkpoint", type=pathlib.Path, help=".dat or .dat.bz2 for the CNN, instead of the installed one")
    add("--pads", type=int, nargs=4, default=[0, 0, 0, 0], metavar=tuple("TBLR"), help="pixels added to the face box")
    add("--num_workers", type=positive_int, default=dask.system.CPU_COUNT, help="worker processes on this machine")
    add("--scheduler", help="address of a Dask scheduler, tcp://host:port, whose workers are used (see the README)")
    add(
        "--shard",
        type=Shard.parse,
        metavar="I/N",
        help="preprocess only the I-th of N parts of the list, I from 1, as in job arrays",
    )
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Preprocess a file list's videos, or all. Returns the exit status: 1 when not a single clip could be used."""
    args = parse_args(argv)
    # Absolute: workers on other machines have other working directories.
    root, videos_root = args.final_data_root.absolute(), args.videos_data_root.absolute()
    checkpoint = args.face_det_checkpoint and args.face_det_checkpoint.absolute()
    if checkpoint:
        FaceDetector(args.detector, checkpoint)  # a wrong file is reported now, not by every worker
    settings = ClipSettings(args.img_size, args.detector, checkpoint, tuple(args.pads))
    jobs, missing = (all_jobs(videos_root), []) if args.all else listed_jobs(videos_root, args.split, args.filelists)
    if args.shard:
        jobs, missing = args.shard.part(jobs), args.shard.part(missing)
    log = RunLog(root, "all" if args.all else args.split, args.shard)
    with log.lock([job.name for job in jobs]):
        log.start({"img_size": args.img_size, "detector": args.detector, "pads": list(args.pads)})
        todo = [job for job in jobs if not is_clip(root / job.name)]
        work = [(job.source, str(root / job.name), settings) for job in todo]
        num_existing, results = len(jobs) - len(todo), {}
        num_workers = min(args.num_workers, len(todo))
        try:
            with (
                interrupted_by_sigterm(),
                contextlib.closing(in_workers(run_job, work, num_workers, root, args.scheduler)) as finished,
            ):
                for number, result in tracked(finished, "clips", len(jobs), existing=num_existing):
                    results[todo[number].name] = result or KILLED
        finally:  # also when interrupted, so that the next run knows what this one did
            summary = log.finish(results, missing, num_existing)
    print_summary(summary, args.final_data_root)
    return 0 if summary["done"] or summary["done_before"] or not (jobs or missing) else 1  # a shard may be empty


if __name__ == "__main__":
    raise SystemExit(main())
