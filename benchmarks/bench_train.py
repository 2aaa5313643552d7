"""The reference's GAN step against ours, and half precision against float32.

    python benchmarks/bench_train.py --batch_size 16 --steps 8
    python benchmarks/bench_train.py --losses --data_root grid_preprocessed --width 0.125 --batch_size 8

The first takes turns, a step of the reference's and one of ours, on the same networks and noise, and prints the median
seconds of each and the median ratio. The reference's step is: the generator's predict(), two updates of the
discriminator by train_on_batch() (real, and generated or with another sound), its test_on_batch(), and an update of
generator and frozen discriminator, each of which runs networks that ours runs once.

The second trains three times from the start: float32, mixed_bfloat16 with the same seed, float32 with another one, and
prints for each loss by how much the curves differ (the mean of windows of 20 batches).
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
WARM_UP = 2  # steps: tracing, and malloc's first growth
WINDOW = 20  # batches


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="residual", help="generator (default: %(default)s)")
    add("--width", type=float, default=1.0, help="multiplies all filter counts (default: %(default)s)")
    add("--batch_size", type=int, default=16, help="samples a batch (default: %(default)s)")
    add("--steps", type=int, help="steps that are measured (default: 8), or batches of --losses (default: 200)")
    add("--precision", default="float32", help="of our step; the reference's is float32 (default: %(default)s)")
    add("--losses", action="store_true", help="compare losses in place of times")
    add("--data_root", help="for --losses: a folder made by preprocess.py")
    add("--seed", type=int, help="for --losses: train once with this seed, and write the losses to --out")
    add("--out", help="for --seed: an .npy file")
    return parser.parse_args(argv)


def noise(batch_size):
    """A batch as `batches.as_inputs` makes them, in float32."""
    rng = np.random.default_rng(0)
    x = {"face": rng.random((batch_size, 96, 96, 6), "float32")}
    x |= {name: rng.uniform(-4, 4, (batch_size, 80, 27, 1)).astype("float32") for name in ("mel", "wrong_mel")}
    return x, rng.random((batch_size, 96, 96, 3), "float32")


def reference_step(model, width):
    """A function of a batch that makes the reference's five calls, on networks of its own."""
    import keras
    from keras import ops

    from discriminator import build_discriminator
    from generator import build_generator

    def contrastive(truth, distance):  # 0 is in sync
        near, far = ops.square(distance), ops.square(ops.relu(1.0 - distance))
        return ops.mean((1.0 - truth) * near + truth * far)

    keras.config.set_dtype_policy("float32")
    generator, discriminator = build_generator(model, width=width), build_discriminator(width=width)
    discriminator.compile(loss=contrastive, optimizer=keras.optimizers.Adam(1e-4))
    face, mel = generator.inputs
    fake = generator([face, mel])
    combined = keras.Model([face, mel], [fake, discriminator([fake, mel])])
    combined.compile(loss=["mae", contrastive], loss_weights=[1.0, 0.01], optimizer=keras.optimizers.Adam(1e-4))

    def step(x, y):
        in_sync, out_of_sync = np.zeros((len(y), 1), "float32"), np.ones((len(y), 1), "float32")
        fake = generator.predict([x["face"], x["mel"]], verbose=0)
        # Keras reads `trainable` when a function is traced: frozen in one of them, and learning in the other.
        discriminator.trainable = True
        discriminator.train_on_batch([y, x["mel"]], in_sync)
        discriminator.train_on_batch([fake, x["mel"]], out_of_sync)
        discriminator.test_on_batch([fake, x["mel"]], out_of_sync)
        discriminator.trainable = False
        combined.train_on_batch([x["face"], x["mel"]], [y, in_sync])

    return step


def our_step(model, width, precision):
    """A function of a batch that makes our one call, on networks of its own."""
    import keras

    from discriminator import build_discriminator
    from generator import build_generator
    from optimizer import build_optimizer, learning_rate
    from step import TrainingStep

    keras.config.set_dtype_policy(precision)
    step = TrainingStep(build_generator(model, width=width), build_discriminator(width=width))
    step.compile(optimizer=build_optimizer(learning_rate(1e-4)))
    step.optimizer.build(step.trainable_variables)
    return step.train_on_batch


def compare_times(args):
    """Print the median seconds of both steps, and their ratio."""
    ways = {"reference": reference_step(args.model, args.width)}
    ways["ours"] = our_step(args.model, args.width, args.precision)
    x, y = noise(args.batch_size)
    took = {name: [] for name in ways}
    for number in range(WARM_UP + (args.steps or 8)):
        for name, step in ways.items():
            began = time.perf_counter()
            step(x, y)
            took[name] += [time.perf_counter() - began] if number >= WARM_UP else []
    for name, seconds in took.items():
        each = ", ".join(f"{s:.2f}" for s in seconds)
        print(f"{name}: median {statistics.median(seconds):.2f} s a step, {args.batch_size} samples ({each})")
    ratios = [a / b for a, b in zip(took["reference"], took["ours"], strict=True)]
    print(f"reference / ours ({args.precision}): median {statistics.median(ratios):.2f}")


def train(args):
    """Train once with --seed and --precision, and write the losses of each batch, (losses, batches), to --out."""
    import keras

    from batches import Feed
    from dataset import FaceDataset
    from splits import find_clips

    keras.utils.set_random_seed(args.seed)
    step = our_step(args.model, args.width, args.precision)
    clips, _ = find_clips(args.data_root, "train", pathlib.Path(args.data_root) / "filelists")
    dataset, rows = FaceDataset(clips), []
    steps = args.steps or 200
    for x, y in Feed(dataset, args.batch_size, args.seed, 1, steps).few(0, steps):
        rows.append(step(x, y, return_dict=True))
    names = sorted(rows[0])
    # train_on_batch() gives means since the beginning.
    counts = np.arange(1, steps + 1)
    sums = np.array([[float(row[name]) for row in rows] for name in names]) * counts
    np.save(args.out, np.diff(sums, axis=1, prepend=0))
    print(" ".join(names))


def compare_losses(args):
    """Train three times in processes of their own, and print how far the curves are apart."""
    import tempfile

    curves, names = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for label, precision, seed in (
            ("float32", "float32", 0),
            ("mixed_bfloat16", "mixed_bfloat16", 0),
            ("another seed", "float32", 1),
        ):
            out, began = f"{folder}/{label}.npy", time.monotonic()
            command = [sys.executable, __file__, *sys.argv[1:], "--seed", str(seed), "--precision", precision]
            done = subprocess.run([*command, "--out", out], stdout=subprocess.PIPE, text=True, check=True)
            names, losses = done.stdout.splitlines()[-1].split(), np.load(out)
            whole = losses.shape[1] // WINDOW * WINDOW
            curves[label] = losses[:, :whole].reshape(len(names), -1, WINDOW).mean(axis=2)
            print(f"{label}: {losses.shape[1]} batches, {time.monotonic() - began:.0f} s", flush=True)
    for number, name in enumerate(names):
        base, half, other = (curves[label][number] for label in curves)
        apart, usual = np.abs(half - base).mean(), np.abs(other - base).mean()
        verdict = "within" if apart <= usual else "NOT within"
        print(
            f"{name}: begins at {base[0]:.4f}, ends at {base[-1]:.4f} (mixed_bfloat16 {half[-1]:.4f}, "
            f"another seed {other[-1]:.4f}); apart by {apart:.4f}, two seeds by {usual:.4f}: {verdict}"
        )


def main(argv=None):
    """Compare times, or losses."""
    args = parse_args(argv)
    if args.seed is not None:
        train(args)
    elif args.losses:
        compare_losses(args)
    else:
        compare_times(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
