"""Seconds per training step with and without callbacks.KeepFreedMemory, each in its own process, and their ratio.

python benchmarks/bench_memory_patch.py --width 0.25 --batch_size 16 --steps 20
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
WARM_UP = 4  # steps: tracing, and malloc's first growth


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--width", type=float, default=0.25, help="multiplies all filter counts (default: %(default)s)")
    add("--batch_size", type=int, default=16, help="samples per batch (default: %(default)s)")
    add("--steps", type=int, default=20, help="measured batches (default: %(default)s)")
    add("--keep", choices=("yes", "no"), help="measure one setting only and print it as JSON (for subprocesses)")
    return parser.parse_args(argv)


def measure(width, batch_size, steps, keep):
    """Train on noise through fit(). Returns the median seconds, system seconds and page faults per step."""
    sys.path.insert(0, str(ROOT))
    import keras
    import numpy as np

    from generator import build_generator
    from lipgan.training.callbacks import KeepFreedMemory
    from lipgan.training.losses import TrainingStep

    class Noise(keras.utils.PyDataset):
        """Batches in the form of `loader.Batches`."""

        def __len__(self):
            return WARM_UP + steps

        def __getitem__(self, index):
            rng = np.random.default_rng(index)
            mels = {name: rng.random((batch_size, 80, 27, 1), "float32") for name in ("mel", "wrong_mel")}
            return {"face": rng.random((batch_size, 96, 96, 6), "float32"), **mels}, rng.random(
                (batch_size, 96, 96, 3), "float32"
            )

    class Clock(keras.callbacks.Callback):
        """Records when each step ended, and the resource usage by then."""

        ends, used = [], []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())
            self.used.append(resource.getrusage(resource.RUSAGE_SELF))

    step, clock = TrainingStep(build_generator(width=width)), Clock()
    step.compile(optimizer=keras.optimizers.Adam(1e-4))
    step.fit(Noise(workers=1), shuffle=False, verbose=0, callbacks=[*([KeepFreedMemory()] if keep else []), clock])
    first, last = clock.used[WARM_UP - 1], clock.used[-1]
    return {
        "s/step": statistics.median(
            b - a for a, b in zip(clock.ends[WARM_UP - 1 :], clock.ends[WARM_UP:], strict=False)
        ),
        "system s/step": (last.ru_stime - first.ru_stime) / steps,
        "page faults/step": (last.ru_minflt - first.ru_minflt) / steps,
    }


def main(argv=None):
    """Measure both settings and print their ratio."""
    args = parse_args(argv)
    if args.keep:
        print(json.dumps(measure(args.width, args.batch_size, args.steps, args.keep == "yes")))
        return 0
    command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
    results = {}
    for keep in ("no", "yes"):
        done = subprocess.run([*command, "--keep", keep], capture_output=True, text=True, check=True)
        results[keep] = json.loads(done.stdout.splitlines()[-1])
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in results[keep].items())
        print(f"{'with' if keep == 'yes' else 'without'} KeepFreedMemory: {numbers}", flush=True)
    print(f"ratio: {results['no']['s/step'] / results['yes']['s/step']:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
