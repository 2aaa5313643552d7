"""Training on a GPU: samples per second, memory, share of peak FLOP/s, and how long fit() waits for data.

python benchmarks/bench_gpu.py --data_root lrs2_preprocessed --batch_sizes 96 192 384 768
"""

import argparse
import itertools
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
WARM_UP = 3  # batches: compilation, and the first reads
PEAK_TFLOPS = {  # dense, bfloat16 (float16 where a chip lacks it), from the vendors' data sheets
    "H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "V100": 125, "T4": 65, "4090": 165,
}  # fmt: skip
GMAC = {"residual": 3.94, "basic": 1.27, "discriminator": 0.26}  # forward pass of one sample at width 1 and 96 pixels


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", help="folder made by preprocess.py (default: noise, without the time that fit() waits)")
    add("--filelists", default="filelists/", help="folder of train.txt (default: %(default)s)")
    add("--model", choices=("residual", "basic"), default="residual", help="generator (default: %(default)s)")
    add("--width", type=float, default=1.0, help="multiplies all filter counts (default: %(default)s)")
    add("--gan", action="store_true", help="the step of train.py (default: of train_unet.py)")
    add("--batch_sizes", type=int, nargs="+", default=[96, 192, 384, 768], help="(default: %(default)s)")
    add("--steps", type=int, default=30, help="measured batches (default: %(default)s)")
    add("--precision", default="mixed_bfloat16", help="Keras' dtype policy (default: %(default)s)")
    add("--workers", type=int, default=4, help="data loading threads (default: %(default)s)")
    add("--peak_tflops", type=float, help="peak TFLOP/s of the chip, if this script does not list it")
    add("--backend", choices=("jax", "tensorflow"), default="jax", help="default: %(default)s")
    add("--one", action="store_true", help="measure one batch size and print it as JSON (for subprocesses)")
    return parser.parse_args(argv)


def gmac(model, width, gan, backend):
    """Return the GMAC of a training step per sample: three times the forward pass, counted by XLA on JAX.

    The discriminator runs on three pairs, and again on the generated one for the generator's loss.
    """
    counts = dict(GMAC) if width == 1 else None
    if backend == "jax":
        import jax
        import numpy as np

        from discriminator import build_discriminator
        from generator import build_generator

        counts = {}
        for name, network in (
            (model, build_generator(model, 96, width)),
            ("discriminator", build_discriminator(96, width)),
        ):
            values = [v.value for v in network.trainable_variables], [v.value for v in network.non_trainable_variables]
            inputs = [np.zeros((1, *shape[1:]), "float32") for shape in network.input_shape]
            lowered = jax.jit(lambda t, n, x, net=network: net.stateless_call(t, n, x)[0]).lower(*values, inputs)
            counts[name] = lowered.cost_analysis()["flops"] / 2e9
    return counts and 3 * counts[model] + gan * 12 * counts["discriminator"]


def measure(args, batch_size):
    """Return seconds per step with data from disk and with one batch in memory, peak memory, and the device."""
    import keras

    from discriminator import build_discriminator
    from generator import build_generator
    from lipgan.data.dataset import FaceDataset
    from lipgan.training.callbacks import KeepFreedMemory
    from lipgan.training.distributed import find_devices
    from lipgan.training.losses import TrainingStep

    found = find_devices()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(args.precision)
    discriminator = build_discriminator(96, args.width) if args.gan else None
    step = TrainingStep(build_generator(args.model, 96, args.width), discriminator)
    step.compile(optimizer=keras.optimizers.Adam(1e-4))
    sources = {"in memory": _one_batch(batch_size, args.steps)}
    if args.data_root:
        from lipgan.data.filelists import find_clips
        from lipgan.training.loader import BatchLoader

        dataset = FaceDataset(find_clips(args.data_root, "train", args.filelists)[0])
        loader = BatchLoader(dataset, batch_size, 0, args.workers, WARM_UP + args.steps)
        sources["read"] = loader.batches(0, 0, loader.per_epoch)
    result = {"device": str(found), "kind": found.kind, "model": found.model}
    for name, batches in sources.items():
        clock = _clock()
        step.fit(batches, shuffle=False, verbose=0, callbacks=[KeepFreedMemory(), clock])
        ends = clock.ends[WARM_UP - 1 :]
        result[name] = statistics.median(b - a for a, b in itertools.pairwise(ends))
        result[f"{name}, mean"] = (ends[-1] - ends[0]) / (len(ends) - 1)
    frame = gmac(args.model, args.width, args.gan, args.backend)
    return result | {"memory": _peak_memory(found.kind), "gmac": frame}


def _one_batch(batch_size, steps):
    import keras
    import numpy as np

    from lipgan.training.loader import as_bytes

    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (batch_size, 96, 96, 3), "uint8") for name in ("reference", "target")}
    mels = {name: rng.uniform(-4, 4, (batch_size, 80, 27, 1)).astype("float32") for name in ("mel", "wrong_mel")}

    class OneBatch(keras.utils.PyDataset):
        batch = as_bytes(images | mels)

        def __len__(self):
            return WARM_UP + steps

        def __getitem__(self, index):
            return self.batch

    return OneBatch(workers=1)


def _clock():
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])  # waits for the device
            self.ends.append(time.perf_counter())

    return Clock()


def _peak_memory(kind):
    """Return the peak memory in bytes: of the device, or of the process on a CPU."""
    import keras

    if kind == "CPU":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def main(argv=None):
    """Measure each batch size in its own process, print a line for each and the best one last."""
    args = parse_args(argv)
    if args.one:
        from lipgan.models.backend import set_backend

        set_backend(args.backend, default="jax")
        print(json.dumps(measure(args, args.batch_sizes[0])))
        return 0
    rows = {}
    for size in args.batch_sizes:
        command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv)]
        done = subprocess.run([*command, "--batch_sizes", str(size), "--one"], capture_output=True, text=True)
        if done.returncode:
            print(f"batch {size}: {(done.stderr.strip() or 'out of memory').splitlines()[-1]}")
            continue
        row = rows[size] = json.loads(done.stdout.splitlines()[-1])
        rate = size / row.get("read, mean", row["in memory, mean"])
        line = f"batch {size} on {row['device']}: {rate:.1f} samples per second, {row['memory'] / 2**30:.2f} GiB"
        peak = args.peak_tflops or next((v for name, v in PEAK_TFLOPS.items() if name in row["model"]), None)
        if row["gmac"]:
            tflops = 2e-3 * row["gmac"] * size / row["in memory"]
            line += f", {tflops:.3g} TFLOP/s" + (f" ({tflops / peak:.1%} of {peak:g})" if peak else "")
        if "read" in row:
            line += f", fit() waits for data {max(0.0, 1 - row['in memory, mean'] / row['read, mean']):.1%} of the time"
        print(line, flush=True)
    if rows:
        best = max(rows, key=lambda size: size / rows[size].get("read, mean", rows[size]["in memory, mean"]))
        print(f"best batch: {best}")
    return 0 if rows else 1


if __name__ == "__main__":
    raise SystemExit(main())
