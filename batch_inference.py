"""Lip-sync: make the face of an image or a video say what an audio file says.

    python batch_inference.py --face face.jpg --audio speech.wav
    python batch_inference.py --checkpoint_path lipgan_residual_mel.h5 --model residual --face V.mp4 --audio A.wav \\
        --results_dir results/ --fps 25 --pads 0 0 0 0
    python batch_inference.py --jobs list.csv
    python batch_inference.py --jobs list.csv --scheduler tcp://host:8786

Writes results/<face>_<audio>.mp4, and prints its path as the last line. A CSV file of --jobs has a row for each video:
columns face, audio, and any other option without its dashes. Existing results are skipped, so a list can be run again.
"""

import argparse
import pathlib
import sys

import cv2

from lipgan.faces.detector import FaceDetector
from lipgan.inference.jobs import Workers, read_jobs, report, run_in_workers, run_jobs
from lipgan.inference.options import (
    Job,
    LipsyncOptions,
    RunnerOptions,
    add_options,
    check_inputs,
    check_result,
    declared,
    job_columns,
    job_from_args,
    replace_from_row,
)
from lipgan.inference.source import open_source
from lipgan.models.metadata import description
from lipgan.utils.cli import UserError, interrupted_by_sigterm, positive_int, script, warn
from lipgan.utils.files import atomic_write
from lipgan.utils.progress import ProgressBars


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add = parser.add_argument
    add("--jobs", type=pathlib.Path, metavar="CSV", help="make many videos, with the weights loaded once (see above)")
    several = "with --jobs: worker processes on this machine, which share its processors (default: %(default)s)"
    add("--num_workers", type=positive_int, default=1, help=several)
    cluster = "with --jobs: address of a Dask scheduler, tcp://host:port, whose workers make the videos"
    add("--scheduler", metavar="ADDRESS", help=cluster)
    listing = "write the first frame of --face with numbered faces, and exit; needs no --audio"
    add("--list_faces", type=pathlib.Path, metavar="PNG", help=listing)
    add("--verbose", action="store_true", help="also print the time spent by phase")
    for name in ("--face_det_batch_size", "--n_gpu"):  # of the original: accepted and ignored
        add(name, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(join_dashed_paths(sys.argv[1:] if argv is None else argv))
    if args.jobs and args.list_faces:
        parser.error("--list_faces is for one --face, not for --jobs")
    if not args.jobs and (args.scheduler or args.num_workers > 1):
        parser.error("--num_workers and --scheduler are for --jobs")
    needed = ["face"] if args.list_faces else [] if args.jobs else ["face", "audio"]
    if missing := [f"--{name}" for name in needed if getattr(args, name) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


def join_dashed_paths(argv):
    """Let the name of a file begin with a dash: --face -x.jpg becomes --face=-x.jpg, which argparse understands."""
    fields = [field for cls in (Job, RunnerOptions, LipsyncOptions) for field in declared(cls).values()]
    takes_path = {f"--{field.name}" for field in fields if field.metadata.get("type") is pathlib.Path}
    takes_path |= {"--jobs", "--list_faces"}
    joined = []
    for text in argv:
        is_value = joined and joined[-1] in takes_path and text.startswith("-")
        if is_value and (not text.startswith("--") or pathlib.Path(text).exists()):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


@script
def main(argv=None):
    """Make one video, or those of a list. Returns an exit status; the result's path is the last line on stdout."""
    args = parse_args(argv)
    job = job_from_args(args)
    if args.list_faces:
        return list_faces(job, args.list_faces)
    if args.jobs:
        rows = read_jobs(args.jobs, job_columns())
        make = JobRunner(job, args.verbose)
        if args.scheduler or args.num_workers > 1:
            with interrupted_by_sigterm():
                workers = Workers(args.num_workers, args.scheduler)
                return report(run_in_workers(rows, make.job_of, workers, args.verbose))
        return report(run_jobs(rows, make))
    print(make_video(job, args.verbose))
    return 0


class JobRunner:
    """Makes the video of one row after another, with the options of the command line where the row has none."""

    def __init__(self, job, verbose):
        self._job, self._verbose, self._results = job, verbose, set()

    def __call__(self, row):
        """Make the video of a row, unless it exists. Returns what the report says of it. Raises UserError."""
        job = self.job_of(row)
        return "existed" if job is None else str(make_video(job, self._verbose))

    def job_of(self, row):
        """Return the Job of a row; None where its result exists. Raises UserError."""
        job = replace_from_row(self._job, row)
        if job.out.absolute() in self._results:
            raise UserError(f"{job.out} is the result of an earlier row too; give each its own outfile")
        self._results.add(job.out.absolute())
        return None if job.out.exists() and not job.overwrite else job


def make_video(job, verbose=False):
    """Make the video of one Job. Returns its path."""
    job.check()
    from lipgan.inference.pipeline import lipsync

    with interrupted_by_sigterm(), ProgressBars() as progress:
        result = lipsync(job.face, job.audio, job.out, job.runner, job.options, progress)
    print_summary(result, verbose)
    return result.path


def print_summary(result, verbose):
    """Print what was made, and what was assumed, on stderr: stdout is for the result's path."""
    first, *others = result.summary()
    warn(first)
    if verbose:
        others.append(result.time_by_phase())
    for line in others:
        warn(f"  {line}")


def list_faces(job, out):
    """Write the first frame of the face's file with its faces numbered, and print where they are."""
    from lipgan.faces import selection

    checkpoint = job.runner.checkpoint_path
    check_inputs(**{name: path for name, path in job.inputs.items() if name != "checkpoint_path"})
    check_result(out, job.inputs.values(), job.overwrite, "list_faces", ".png")
    options = job.options.with_defaults(description(checkpoint))
    detector = FaceDetector(options.detector, options.face_det_checkpoint)
    frame = open_source(job.face, options).first_frame()
    squares = selection.list_faces(detector, frame)
    with atomic_write(out) as temporary:
        temporary.write_bytes(cv2.imencode(".png", selection.draw_faces(frame, squares))[1])
    for number, square in enumerate(squares):
        print(f"--face_index {number}    --face_box {' '.join(str(round(v)) for v in square)}")
    warn(f"{len(squares)} faces in the first frame of {job.face}")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
