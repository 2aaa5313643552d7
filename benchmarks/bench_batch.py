"""Throughput of batch_inference.py --jobs: one process with all processors against worker processes that divide them.

    python benchmarks/bench_batch.py --jobs 20 --seconds 2 --workers 1 2

Each count of workers makes the same videos of the example's face, weights loaded once for each worker. Prints wall time
and processor time, which says more on a machine that has other work too.
"""

import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20, help="videos (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each video (default: %(default)g)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="counts to compare (default: 1 2)")
    return parser.parse_args(argv)


def main(argv=None):
    """Time each number of workers and print a table."""
    args = parse_args(argv)
    print(f"{args.jobs} videos of {args.seconds:g} s, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n")
    print("| workers | wall, s | processor time, s |\n|---|---|---|")
    for count in args.workers:
        with tempfile.TemporaryDirectory() as folder:
            face, audio = ROOT / "examples" / "astronaut.jpg", ROOT / "examples" / "speech.wav"
            rows = [f"{face},{audio},{folder}/{number}.mp4" for number in range(args.jobs)]
            jobs = pathlib.Path(folder) / "list.csv"
            jobs.write_text("\n".join(["face,audio,outfile", *rows]))
            command = [sys.executable, str(ROOT / "batch_inference.py"), "--jobs", str(jobs)]
            command += ["--max_sec", str(args.seconds), "--num_workers", str(count)]
            before, start_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wall_s, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"| {count} | {wall_s:.1f} | {cpu_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
