"""Compare audio features by how well lips are predicted from them: mel windows against the speech encoder.

    python -m experiments.compare_audio_features --data_root grid_preprocessed \\
        --filelists filelists/grid/without_b --free_speech addresses_preprocessed --people 1 5 15

One small time-delay network is trained per kind of feature and number of people, for mouth opening and width. It hears
the people of train.txt, without those of test.txt, from the one with most clips on. Printed: correlation of opening
(and width) with the truth, mean over people and 95 % interval by bootstrap over people; on test.txt at lag 0, on each
--free_speech folder, whose clock is unknown, at each clip's best lag.
"""

import argparse
import collections
import dataclasses
import pathlib

import numpy as np

from audio_hparams import hparams
from lipgan.evaluation import metrics
from lipgan.models.backend import set_backend
from lipgan.utils import cli
from lipgan.utils.cli import script
from lipgan.utils.progress import tracked

FEATURES = ("mel", "speech")
BATCH_SIZE = 64
UNIT = 0.05  # of the distance of the eyes: the size of targets is then about 1
MAX_CLIPS = 40  # per person: of one person, more clips teach little


@dataclasses.dataclass(frozen=True)
class Recording:
    """The audio windows and the mouth of one clip's frames."""

    person: str
    windows: dict[str, np.ndarray]  # by kind of feature: (N, window, numbers) float16
    curves: np.ndarray  # (N, 2): mouth opening and width relative to the distance of the eyes


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", type=pathlib.Path, required=True, help="folder made by preprocess.py")
    add("--filelists", type=pathlib.Path, required=True, help="folder of train.txt and test.txt")
    add(
        "--free_speech", type=pathlib.Path, nargs="*", default=[], help="more folders made by preprocess.py, to test on"
    )
    add("--people", type=cli.positive_int, nargs="+", default=[1000], help="numbers of people to learn from "
        "(default: all)")  # fmt: skip
    add("--features", nargs="+", choices=FEATURES, default=FEATURES, help="default: all")
    add("--steps", type=cli.positive_int, default=1500, help="batches of 64 windows (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print the table."""
    args = parse_args(argv)
    set_backend(None, default="tensorflow")
    train = read_recordings(args.data_root, args.filelists / "train.txt")
    tests = {f"{args.filelists.name}, test": read_recordings(args.data_root, args.filelists / "test.txt")}
    tests |= {root.name: read_recordings(root) for root in args.free_speech}
    unseen = {recording.person for recording in next(iter(tests.values()))}
    clips = collections.Counter(r.person for r in train if r.person not in unseen)
    by_size = sorted(clips, key=lambda person: (-clips[person], person))
    print(f"| features | people | minutes | {' | '.join(tests)} |\n|---|---|---{'|---' * len(tests)}|", flush=True)
    for count in args.people:
        heard = [recording for recording in train if recording.person in by_size[:count]]
        minutes = sum(len(recording.curves) for recording in heard) / hparams.fps / 60
        for kind in args.features:
            network = train_network(heard, kind, args.steps, args.seed)
            cells = [score(network, kind, some, number > 0) for number, some in enumerate(tests.values())]
            print(f"| {kind} | {min(count, len(by_size))} | {minutes:.1f} | {' | '.join(cells)} |", flush=True)
    return 0


def read_recordings(data_root, filelist=None):
    """Read the Recordings of a preprocessed folder, of a list's clips or all, without unusable ones."""
    from lipgan.data.clip_folder import read_audio
    from lipgan.data.filelists import read_filelist
    from lipgan.data.index import open_index
    from lipgan.data.lip_landmarks import read_landmarks
    from lipgan.media.audio import mel_window, melspectrogram
    from lipgan.models import speech

    index = open_index(data_root)
    landmarks = read_landmarks(index)
    names = {f"main/{name}" for name in read_filelist(filelist)} if filelist else set(index.names)
    rows, clips = [], collections.Counter()
    for row, name in enumerate(index.names):
        person = name.split("/")[1]
        if name in names and index.reasons[row] == "" and clips[person] < MAX_CLIPS:
            clips[person] += 1
            rows.append((row, person))
    recordings = []
    for row, person in tracked(rows, str(data_root), unit="clip"):
        wav = read_audio(data_root / index.names[row] / "audio.wav")
        points = landmarks.read(row).astype("float64").reshape(-1, 68, 2)
        frames = index.frames(row)
        mel, fps = melspectrogram(wav), hparams.fps
        windows = {
            "mel": np.stack([mel_window(mel, int(frame), fps).T for frame in frames]).astype("float16"),
            "speech": speech.feature_windows(speech.encode(wav), frames, fps).astype("float16"),
        }
        curves = np.stack([metrics.mouth_opening(points), metrics.mouth_width(points)], axis=1)
        recordings.append(Recording(person, windows, curves))
    return recordings


def build_network(shape):
    """Build the time-delay network: windows (window, numbers) -> opening and width (2,), in UNITs."""
    import keras
    from keras import layers

    x = inputs = keras.Input(shape)
    x = layers.Conv1D(128, 5, activation="relu")(x)  # (window - 4, 128)
    x = layers.Dropout(0.2)(x)
    x = layers.Conv1D(128, 5, dilation_rate=2, activation="relu")(x)  # (window - 12, 128)
    x = layers.Dropout(0.2)(x)
    x = layers.Conv1D(128, shape[0] - 12, activation="relu")(x)  # (1, 128)
    return keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.2)(layers.Flatten()(x))))


def train_network(recordings, kind, steps, seed):
    """Train the network to predict each clip's curves, less their median. Returns a function windows -> (N, 2)."""
    import keras

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    windows = np.concatenate([recording.windows[kind] for recording in recordings])
    targets = np.concatenate([r.curves - np.nanmedian(r.curves, axis=0) for r in recordings]) / UNIT
    people = np.concatenate([np.repeat(r.person, len(r.curves)) for r in recordings])
    usable = np.flatnonzero(~np.isnan(targets).any(axis=1))
    sizes = collections.Counter(people[usable].tolist())
    chances = np.array([sizes[person] ** -0.5 for person in people[usable].tolist()])
    mean, deviation = windows.mean((0, 1), "float64"), windows.std((0, 1), dtype="float64") + 0.1
    network = build_network(windows.shape[1:])
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    network.compile(optimizer=keras.optimizers.AdamW(schedule, weight_decay=1e-3), loss="mean_absolute_error")
    for chosen in rng.choice(usable, (steps, BATCH_SIZE), p=chances / chances.sum()):
        network.train_on_batch(((windows[chosen] - mean) / deviation).astype("float32"), targets[chosen])
    return lambda x: network.predict(((x - mean) / deviation).astype("float32"), verbose=0) * UNIT


def score(network, kind, recordings, at_best_lag):
    """Describe the correlations with the truth, mean over people and interval: opening, then width."""
    by_person = collections.defaultdict(list)
    for recording in recordings:
        predicted = network(recording.windows[kind])
        lag = metrics.best_lag(predicted[:, 0], recording.curves[:, 0]) if at_best_lag else 0.0
        pairs = zip(predicted.T, recording.curves.T, strict=True)
        by_person[recording.person].append([metrics.correlation(*pair, lag) for pair in pairs])
    opening, width = np.array([np.nanmean(clips, axis=0) for clips in by_person.values()]).T
    mean, low, high = metrics.interval(opening)
    return f"{mean:.2f} ({low:.2f} to {high:.2f}), width {np.nanmean(width):.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
