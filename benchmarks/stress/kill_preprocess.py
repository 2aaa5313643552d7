"""Kill preprocess.py at random moments and check that no clip is lost or half-written.

    python benchmarks/stress/kill_preprocess.py --videos_data_root grid --num_clips 8 --kills 20

An uninterrupted first run defines the expected clips. Then SIGKILL is sent at a random moment to all processes of a
run, to its main process, or to one of its workers, in turn, and the next run continues. After every kill each existing
clip must equal the expected one, byte for byte; at the end all must exist, and nothing else.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
WHOM = ("all", "main", "worker")


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos_data_root", type=pathlib.Path, required=True, help="folder of videos; the first few are used")
    add("--num_clips", type=int, default=8, help="number of videos (default: %(default)s)")
    add("--kills", type=int, default=20, help="number of kills (default: %(default)s)")
    add("--num_workers", type=int, default=2, help="worker processes (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
    return parser.parse_args(argv)


def start(videos, final, num_workers):
    """Start preprocess.py in its own process group."""
    options = ["--videos_data_root", videos, "--final_data_root", final, "--all", "--detector", "hog"]
    command = [sys.executable, str(ROOT / "preprocess.py"), *map(str, options), "--num_workers", str(num_workers)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def group(run):
    """List the process IDs of a run's group."""
    pids = []
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == run.pid and fields[0] != "Z":
            pids.append(int(status.parent.name))
    return sorted(pids)


def kill(run, whom, rng):
    """Send SIGKILL to all processes, to the main one, or to one of the others."""
    others = [pid for pid in group(run) if pid != run.pid]
    if whom == "all":
        os.killpg(run.pid, signal.SIGKILL)
    elif whom == "main":
        run.kill()
    elif others:
        os.kill(rng.choice(others), signal.SIGKILL)


def contents(final):
    """Read {path: bytes} of all clips, without temporary folders, whose names begin with a dot."""
    files = [
        path for path in final.glob("*/*/*/*") if not any(p.startswith(".") for p in path.relative_to(final).parts)
    ]
    return {path.relative_to(final).as_posix(): path.read_bytes() for path in files}


def broken(current, expected):
    """List the clips of `current` that differ from those of `expected`."""
    clips = {name.rpartition("/")[0] for name in current}
    return [clip for clip in sorted(clips) if _files(current, clip) != _files(expected, clip)]


def _files(contents, clip):
    return {name: data for name, data in contents.items() if name.startswith(clip + "/")}


def main(argv=None):
    """Kill, check and continue. Returns 0 if no clip was lost or half-written."""
    args = parse_args(argv)
    rng, failures, cut = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        videos, whole, final = (pathlib.Path(scratch) / name for name in ("videos", "whole", "final"))
        for source in sorted(args.videos_data_root.rglob("*.mp4"))[: args.num_clips]:
            (videos / source.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, videos / source.parent.name / source.name)
        begun = time.monotonic()
        if start(videos, whole, args.num_workers).wait():
            raise SystemExit("the uninterrupted run of preprocess.py failed")
        seconds, expected = time.monotonic() - begun, contents(whole)
        print(f"{args.num_clips} clips, {len(expected)} files, {seconds:.1f} s without a kill", flush=True)
        kills = runs = 0
        while kills < args.kills:
            whom, moment = WHOM[kills % len(WHOM)], rng.uniform(0.2, 0.9) * seconds
            run, runs = start(videos, final, args.num_workers), runs + 1
            time.sleep(moment)
            if run.poll() is None:
                kill(run, whom, rng)
                kills += 1
                # What is left of a run whose main process died may go on for a moment, beside the next run.
                status = None if whom == "main" else run.wait()
                current = contents(final)
                bad, begun = broken(current, expected), len(list(final.glob("*/*/.tmp_*")))
                failures, cut = failures + len(bad), cut + begun
                clips = len({name.rpartition("/")[0] for name in current})
                outcome = f"kill {kills}: {whom}, after {moment:.1f} s, status {status}"
                print(f"{outcome}: {clips} clips exist, {begun} temporary folders, broken: {bad}", flush=True)
            if contents(final) == expected:  # start again, so that every kill interrupts work
                shutil.rmtree(final)
        run.wait()
        status = start(videos, final, args.num_workers).wait()
        complete = contents(final) == expected
        leftovers = list(final.rglob(".tmp_*"))
        print(f"last run: status {status}, all clips as expected: {complete}, leftover files: {leftovers}")
        print(
            f"{kills} kills in {runs} runs: {failures} clips lost or half-written; "
            f"{cut} were interrupted and preprocessed again"
        )
    return 0 if not failures and complete and not leftovers and status == 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
