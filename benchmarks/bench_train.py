"""Speed of LipGAN's original GAN step and of ours, and the losses of half precision and float32.

    python benchmarks/bench_train.py --batch_size 16 --steps 8
    python benchmarks/bench_train.py --losses --data_root grid_preprocessed --width 0.25 --batch_size 8

The first command alternates the original step ("reference") and ours on the same networks and images, and prints the
medians of wall time, of processor time (which other programs disturb less) and of the ratios. The original step calls
the generator's predict(), two train_on_batch() of the discriminator (real; generated or mismatched audio), its
test_on_batch(), and an update of the generator with the discriminator frozen; ours runs each network once. The
reference is in float32. Images are noise, or come from --data_root.

The second command trains three times from scratch: float32, mixed_bfloat16 with the same seed, and float32 with another
seed. It prints for each loss how far the curves (means of 20 batches) are apart.
"""

import argparse
import pathlib
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
    add("--model", choices=("residual", "basic"), default="residual", help="generator (default: %(default)s)")
    add("--width", type=float, default=1.0, help="multiplies all filter counts (default: %(default)s)")
    add("--batch_size", type=int, default=16, help="samples per batch (default: %(default)s)")
    add("--steps", type=int, help="measured steps (default: 8), or batches of --losses (default: 200)")
    both = ("float32", "mixed_bfloat16")
    add("--precision", nargs="+", default=both, help="dtype policies of our step (default: float32 mixed_bfloat16)")
    add("--losses", action="store_true", help="compare losses instead of times")
    add("--data_root", type=pathlib.Path, help="a folder made by preprocess.py; --losses needs it")
    add("--seed", type=int, help="for --losses: train once with this seed, and write the losses to --out")
    add("--out", help="for --seed: an .npy file")
    return parser.parse_args(argv)


def noise(batch_size):
    """Return a random batch in the form of `loader.as_bytes`."""
    rng = np.random.default_rng(0)
    x = {"face": rng.integers(0, 256, (batch_size, 96, 96, 6), "uint8")}
    x |= {name: rng.uniform(-4, 4, (batch_size, 80, 27, 1)).astype("float32") for name in ("mel", "wrong_mel")}
    return x, rng.integers(0, 256, (batch_size, 96, 96, 3), "uint8")


def batches(data_root, batch_size, seed, count):
    """Yield `count` batches of the training clips of a preprocessed folder."""
    from lipgan.data.dataset import FaceDataset
    from lipgan.data.filelists import find_clips
    from lipgan.training.loader import BatchLoader

    clips, _ = find_clips(data_root, "train", data_root / "filelists")
    return BatchLoader(FaceDataset(clips), batch_size, seed, 1, count).first_batches(0, count)


def reference_step(model, width):
    """Build new networks and return a function of a batch that makes the original step's five calls."""
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
        face, y = x["face"] / np.float32(255), y / np.float32(255)
        fake = generator.predict([face, x["mel"]], verbose=0)
        # Keras reads `trainable` when a function is traced: frozen in one of them, and learning in the other.
        discriminator.trainable = True
        discriminator.train_on_batch([y, x["mel"]], in_sync)
        discriminator.train_on_batch([fake, x["mel"]], out_of_sync)
        discriminator.test_on_batch([fake, x["mel"]], out_of_sync)
        discriminator.trainable = False
        combined.train_on_batch([face, x["mel"]], [y, in_sync])

    return step


def our_step(model, width, precision):
    """Build new networks and return a function of a batch that makes our single call."""
    import keras

    from discriminator import build_discriminator
    from generator import build_generator
    from lipgan.training.losses import TrainingStep
    from lipgan.training.optimizer import build_optimizer, learning_rate

    keras.config.set_dtype_policy(precision)
    step = TrainingStep(build_generator(model, width=width), build_discriminator(width=width))
    step.compile(optimizer=build_optimizer(learning_rate(1e-4)))
    step.optimizer.build(step.trainable_variables)
    return step.train_on_batch


def compare_times(args):
    """Print the median times of all steps and their ratios to the reference."""
    ways = {"reference": reference_step(args.model, args.width)}
    ways |= {f"ours, {precision}": our_step(args.model, args.width, precision) for precision in args.precision}
    x, y = next(batches(args.data_root, args.batch_size, 0, 1)) if args.data_root else noise(args.batch_size)
    times = {name: [] for name in ways}
    for number in range(WARM_UP + (args.steps or 8)):
        for name, step in ways.items():
            began = time.perf_counter(), time.process_time()
            step(x, y)
            times[name] += [(time.perf_counter() - began[0], time.process_time() - began[1])]
        print(f"round {number + 1}: " + ", ".join(f"{name} {times[name][-1][0]:.2f} s" for name in ways), flush=True)
    times = {name: np.array(seconds)[WARM_UP:] for name, seconds in times.items()}
    print(f"{args.model}, width {args.width}, {args.batch_size} samples, {len(times['reference'])} rounds:")
    print("| step | wall, s | processor, s | speed-up, wall | speed-up, processor |")
    print("|---|---|---|---|---|")
    for name, seconds in times.items():
        wall, processors = np.median(seconds, axis=0)
        ratios = np.median(times["reference"] / seconds, axis=0)
        print(f"| {name} | {wall:.2f} | {processors:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


def train(args):
    """Train once with --seed and --precision, and write the losses of each batch, (losses, batches), to --out."""
    import keras

    keras.utils.set_random_seed(args.seed)
    step, steps = our_step(args.model, args.width, *args.precision), args.steps or 200
    rows = [step(x, y, return_dict=True) for x, y in batches(args.data_root, args.batch_size, args.seed, steps)]
    names = sorted(rows[0])  # train_on_batch() gives each batch's own losses; fit() would give means
    np.save(args.out, [[float(row[name]) for row in rows] for name in names])
    print(" ".join(names))


def compare_losses(args):
    """Train three times, each in its own process, and print how far the curves are apart."""
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
            f"another seed {other[-1]:.4f}); difference {apart:.4f}, between seeds {usual:.4f}: {verdict}"
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
