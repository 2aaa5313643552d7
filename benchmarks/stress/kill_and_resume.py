"""Kill a training run at random moments, resume it each time, and compare its result with an uninterrupted run.

    python benchmarks/stress/kill_and_resume.py --kills 20
    python benchmarks/stress/kill_and_resume.py --kills 5 --script train_unet.py \\
        --options "--model warp --ema --accumulate 2"

Random faces and audio, small networks, SIGKILL. Prints a line per kill, then how many arrays of the two states and of
the exported weights are bit-identical. Exit status 1 if an array or a line of stats.jsonl differs.
"""

import argparse
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import toys

FREQ = 3  # batches between checkpoints
PER_KILL = 8  # batches of the run per kill: more than one is trained in between


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--kills", type=int, default=20, help="number of kills (default: %(default)s)")
    add("--script", choices=("train.py", "train_unet.py"), default="train.py", help="(default: %(default)s)")
    add("--options", type=shlex.split, default=[], help="further options of the script, in one string")
    add("--width", type=float, default=0.125, help="multiplies all filter counts (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
    add("--folder", help="working folder (default: a temporary one)")
    return parser.parse_args(argv)


def run_and_kill(command, folder, rng, startup_s):
    """Run the command and kill it at a random moment, in a third of the cases during start-up.

    Returns a description, or None if the command ended first.
    """
    state = folder / "state.weights.h5"
    before, began = state.stat().st_mtime_ns if state.exists() else 0, time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    if rng.random() < 1 / 3:
        time.sleep(rng.uniform(0, startup_s))
        where = "while starting"
    else:
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.01)
        time.sleep(rng.expovariate(1.0))
        where = "while training"
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    if process.wait() == -signal.SIGKILL:
        return f"killed {where}, after {time.monotonic() - began:.1f} s"
    if process.returncode:
        raise SystemExit(f"the command failed: {shlex.join(command)}")
    return None


def differences(one, other):
    """Compare two HDF5 files: (number of bit-identical arrays, names of the others)."""
    a, b = toys.arrays(one), toys.arrays(other)
    equal = {name for name in a.keys() & b.keys() if a[name].tobytes() == b[name].tobytes()}
    return len(equal), sorted((a.keys() | b.keys()) - equal)


def main(argv=None):
    """Train once without interruption and once in pieces, and compare."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root, rng = pathlib.Path(args.folder or temporary), random.Random(args.seed)
        toys.write_expert(toys.write_data(root / "data"))
        line = f"--data_root {root}/data --filelists {root}/data/filelists --model basic --width {args.width} "
        line += f"--batch_size 4 --val_samples 8 --checkpoint_freq {FREQ} --steps_per_epoch 10 --precision float32 "
        line += f"--steps {PER_KILL * args.kills}"
        command = [sys.executable, str(ROOT / args.script), *line.split(), *args.options]
        whole, parts = root / "whole", root / "parts"
        began = time.monotonic()
        subprocess.run([*command, "--logdir", str(whole)], check=True, stdout=subprocess.DEVNULL)
        print(f"uninterrupted: {PER_KILL * args.kills} batches, {time.monotonic() - began:.0f} s", flush=True)
        return compare_resumed([*command, "--logdir", str(parts)], whole, parts, args.kills, rng)


def compare_resumed(command, whole, parts, kills, rng):
    """Kill and resume the command, let it finish, and print the comparison. Returns the exit status."""
    from lipgan.training.config import read_state

    state, startup_s, furthest = parts / "state.weights.h5", 20.0, 0
    for number in range(kills):
        resume = ["--resume", str(state)] if state.exists() else []
        outcome = run_and_kill([*command, *resume], parts, rng, startup_s)
        batches = read_state(state)["batches"] if state.exists() else 0
        print(f"{number + 1}: {outcome or 'ended first'}; the state is of batch {batches}", flush=True)
        if batches < furthest:
            raise SystemExit(f"the state went back from batch {furthest}")
        furthest = batches
    subprocess.run([*command, "--resume", str(state)], check=True, stdout=subprocess.DEVNULL)
    failed = toys.stats(whole) != toys.stats(parts)
    print(f"stats.jsonl: {len(toys.stats(parts))} lines, {'DIFFERENT' if failed else 'equal except for times'}")
    for path in sorted(whole.glob("*.weights.h5")):
        equal, differ = differences(path, parts / path.name)
        print(f"{path.name}: {equal} arrays bit-identical, {len(differ)} not {differ[:3] or ''}")
        failed = failed or bool(differ)
    leftovers = [path.name for path in parts.rglob(".tmp_*")]
    print(f"leftover files: {leftovers or 'nothing'}")
    return int(failed or bool(leftovers))


if __name__ == "__main__":
    raise SystemExit(main())
