"""Measure how good a generator's mouths are, and whether they go with the sound.

    python evaluate.py --checkpoint_path weights/lipgan.weights.h5 --data_root grid_preprocessed --filelists grid_lists

Every number stands beside three that a model must beat: one far frame of the clip copied, the clip's mean face, and the
same network fed with another clip's sound.
"""

import argparse
import json
import pathlib

import numpy as np
from tqdm import tqdm

import options
from audio_hparams import hparams
from errors import UserError, script, whole_file

ROWS = ("own sound", "another clip's sound", "copied reference", "mean face of the clip")


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint_path", required=True, help="the generator: X.weights.h5, or a legacy .h5")
    add("--disc_checkpoint_path", help="a discriminator: also tell how well it knows a clip's sound from another's")
    add("--model", choices=("basic", "residual"), help="which generator it is (default: as the checkpoint says)")
    add("--data_root", required=True, help="folder made by preprocess.py")
    add("--filelists", default="filelists/", help="folder of the lists (default: %(default)s)")
    add("--split", choices=("train", "val", "test"), default="test", help="which list (default: %(default)s)")
    add("--max_clips", type=options.positive_int, help="score so many clips, evenly spaced (default: all)")
    add("--batch_size", type=options.positive_int, default=16, help="faces at a time (default: %(default)s)")
    add("--json", type=pathlib.Path, help="write all numbers, clip by clip, to this file")
    add("--backend", choices=options.BACKENDS, help="default: KERAS_BACKEND, or openvino")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print the table. Returns an exit status."""
    args = parse_args(argv)
    options.set_backend(args.backend, default="openvino")
    from checkpoint import load_discriminator, load_generator
    from dataset import FaceDataset, find_clips
    from mouth import LipLandmarks

    generator, info = load_generator(args.checkpoint_path, args.model)
    clips, notes = find_clips(args.data_root, args.split, args.filelists)
    print("\n".join(notes), end="\n" if notes else "")
    if args.max_clips and len(clips) > args.max_clips:
        clips = [clips[i] for i in np.linspace(0, len(clips) - 1, args.max_clips).astype(int)]
    dataset = FaceDataset(clips, info["img_size"])
    if len(dataset.clips) < 2:
        raise UserError(f"{args.split}.txt has {len(dataset.clips)} clip to score: another clip's sound needs two")
    if args.disc_checkpoint_path:
        print(sync_line(dataset, load_discriminator(args.disc_checkpoint_path)[0], args.batch_size), flush=True)
    landmarks, scores = LipLandmarks(), {row: {} for row in ROWS}
    for number, clip in enumerate(tqdm(dataset.clips, "clips", dynamic_ncols=True)):
        truth, results = results_of_clip(dataset, number, generator, args.batch_size)
        lips = np.stack([landmarks(crop) for crop in truth])
        for row, crops in results.items():
            scores[row]["/".join(clip.folder.parts[-2:])] = score(crops, truth, lips, landmarks)
    report(scores, dataset.skipped, args.json)
    return 0


def sync_line(dataset, discriminator, batch_size):
    """How often real faces with their own sound are nearer than with another clip's, at the same frames, as a line."""
    from metrics import area_under_curve, interval

    areas = []
    for number, clip in enumerate(dataset.clips):
        frames = [int(frame) for frame in clip.targets]
        crops = np.stack([dataset.read_crop(number, frame) for frame in frames]).astype("float32") / 255
        own, other = sounds_of_clip(dataset, number, frames)
        areas.append(
            area_under_curve(*(_predicted(discriminator, crops, mels, batch_size)[:, 0] for mels in (own, other)))
        )
    mean, low, high = interval(areas)
    what = f"area under the curve, own against another clip's sound, {len(areas)} clips"
    return f"{what}: {mean:.3f} ({low:.3f} to {high:.3f})"


def sounds_of_clip(dataset, number, frames):
    """The mel windows (N, 80, 27, 1) of these frames, and the next clip's windows in their place."""
    other = (number + 1) % len(dataset.clips)
    inside = dataset.clips[other].inside
    own = [dataset.mel_window(number, frame) for frame in frames]
    wrong = [dataset.mel_window(other, inside[i % len(inside)]) for i in range(len(frames))]
    return np.stack(own)[..., None], np.stack(wrong)[..., None]


def results_of_clip(dataset, number, generator, batch_size):
    """True crops of one clip's targets, (N, S, S, 3) uint8, and by row of the table what is compared with them."""
    from faces import generator_input

    clip = dataset.clips[number]
    frames = [int(frame) for frame in clip.targets]
    truth = np.stack([dataset.read_crop(number, frame) for frame in frames])
    # One far frame for all: the clip's first, and for the frames near that one the last.
    ends = [dataset.read_crop(number, int(clip.frame_ids[end])) for end in (0, -1)]
    references = np.stack([ends[int(frame - clip.frame_ids[0] < hparams.min_reference_gap)] for frame in frames])
    faces = generator_input(references, truth)
    results = {
        row: np.round(_predicted(generator, faces, mels, batch_size) * 255).clip(0, 255).astype("uint8")
        for row, mels in zip(ROWS, sounds_of_clip(dataset, number, frames), strict=False)
    }
    mean = np.broadcast_to(truth.mean(0).round().astype("uint8"), truth.shape)
    return truth, results | {"copied reference": references, "mean face of the clip": mean}


def _predicted(network, faces, mels, batch_size):
    """The network's output for all, in whole batches: compiled networks are made for one size."""
    count = len(faces)
    faces, mels = (np.concatenate([a, np.repeat(a[-1:], -count % batch_size, axis=0)]) for a in (faces, mels))
    starts = range(0, len(faces), batch_size)
    parts = [network.predict_on_batch([faces[i : i + batch_size], mels[i : i + batch_size]]) for i in starts]
    return np.concatenate([np.asarray(part) for part in parts])[:count]


def score(crops, truth, lips, landmarks):
    """All numbers of one clip by name. lips: the truth's, (N, 20, 2)."""
    import metrics

    still = bool((crops == crops[:1]).all())
    ours = np.stack([landmarks(crop) for crop in (crops[:1] if still else crops)])
    ours = np.broadcast_to(ours, lips.shape)
    mouth, true_mouth = metrics.mouth_region(crops), metrics.mouth_region(truth)
    return {
        "L1": metrics.mean_absolute_error(crops, truth),
        "PSNR": metrics.psnr(crops, truth),
        "mouth L1": metrics.mean_absolute_error(mouth, true_mouth),
        "mouth PSNR": metrics.psnr(mouth, true_mouth),
        "LMD": metrics.landmark_distance(ours, lips),
        "correlation": metrics.opening_correlation(ours, lips),
        "lag": metrics.best_lag(ours, lips),
    }


def report(scores, skipped, path):
    """Print the table of means with 95 % intervals over clips, and write the JSON where one is wanted."""
    from metrics import interval

    names = list(next(iter(next(iter(scores.values())).values())))
    table = {
        row: {name: interval([clip[name] for clip in clips.values()]) for name in names}
        for row, clips in scores.items()
    }
    print(f"| {len(scores[ROWS[0]])} clips | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for row, values in table.items():
        cells = [
            "-" if np.isnan(mean) else f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in values.values()
        ]
        print(f"| {row} | {' | '.join(cells)} |")
    for reason, count in skipped.items():
        print(f"{count} clips could not be scored: {reason}")
    if path:
        with whole_file(path) as temporary:
            whole = {"mean_low_high": table, "clips": scores, "skipped": dict(skipped)}
            temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
