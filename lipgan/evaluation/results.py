"""Evaluation results: flat rows of measures, their means over clips and people, and their JSON and CSV files."""

import collections
import csv
import dataclasses
import json
import math

import numpy as np

from lipgan.evaluation import metrics
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

# What is measured: one row of the tables each.
GENERATED = "generated"  # by the generator from a far frame of the clip and the clip's own audio
OTHER_AUDIO = "other_audio"  # the same, from another clip's audio
TARGET_REFERENCE = "target_reference"  # the same, with the target frame itself as reference: a bound
COPIED_REFERENCE = "copied_reference"  # the far frame itself
MEAN_FACE = "mean_face"  # of the clip
OTHER_MOUTH = (
    "other_mouth"  # true lips of the clip whose audio `other_audio` has: how well a perfect network does there
)
TRUTH = "truth"  # only where there is a discriminator
VIDEO = "video"  # a finished video


def measure(description):
    """Declare a measure of a row: nan where it does not apply."""
    return dataclasses.field(default=math.nan, metadata={"description": description})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageScores:
    """How close the crops of one clip are to the true ones."""

    l1: float = measure("mean absolute difference of crops, as a share of the full range")
    psnr: float = measure("peak signal-to-noise ratio of crops, dB")
    ssim: float = measure("structural similarity of crops")
    mouth_l1: float = measure("l1 of the mouth region")
    mouth_psnr: float = measure("psnr of the mouth region")
    mouth_ssim: float = measure("ssim of the mouth region")
    sharpness: float = measure("variance of the mouth region's Laplacian, result / truth")
    sharpness_native: float = measure("sharpness at the frame's own resolution (finished videos only)")
    spectrum: float = measure("distance of the mouth region's power spectrum, dB")
    colour_step: float = measure("colour step across the pasted mouth's border beyond the truth's own, grey levels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LipScores:
    """How well the lips of one clip follow the true ones, at the clip's own lag of audio against lips."""

    lmd: float = measure("landmark distance of the lips, % of the distance of the eyes")
    opening: float = measure("correlation of mouth opening with the truth")
    width: float = measure("correlation of mouth width with the truth")
    opening_range: float = measure("standard deviation of mouth opening, result / truth")
    width_range: float = measure("standard deviation of mouth width, result / truth")
    lag: float = measure("frames by which the result's lips are late, where their opening agrees best")
    in_time: float = measure("share of clips with a lag within one frame")
    closure: float = measure("share of /p b m/ at which the lips close, of those at which the truth's do")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(ImageScores, LipScores):
    """All measures of one result of one clip."""

    clip: str  # speaker/clip; of a finished video its name
    person: str
    row: str  # which result: GENERATED, OTHER_AUDIO, ...
    disc_distance: float = measure("distance of crops and the clip's audio by the discriminator; the truth's is ideal")
    own_lag: float = measure("frames by which the clip's own audio is late against its own lips")


MEASURES = {
    field.name: field.metadata["description"] for field in dataclasses.fields(Row) if "description" in field.metadata
}
LIP_MEASURES = [field.name for field in dataclasses.fields(LipScores)]


@dataclasses.dataclass(frozen=True)
class SkippedClip:
    """A clip that could not be scored."""

    clip: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything that was measured."""

    rows: tuple[Row, ...]
    skipped: dict[str, int]  # number of clips that could not be scored, by reason
    sync_offset_ms: float | None = None  # of the audio that the generator was given; None: finished videos
    notes: tuple[str, ...] = ()  # lines to print beside the tables

    @property
    def main_row(self) -> str:
        """The name of the row that is judged; the others are for comparison."""
        return self.rows[0].row

    @property
    def clips(self) -> list[str]:
        """The names of the scored clips, in order."""
        return list(dict.fromkeys(row.clip for row in self.rows))

    def named(self, row: str) -> list[Row]:
        """Return the rows of one name, one per clip."""
        return [r for r in self.rows if r.row == row]


def by_row(rows) -> dict[str, list[Row]]:
    """Group rows by what was measured."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row.row].append(row)
    return dict(groups)


def by_person(rows) -> dict[str, list[Row]]:
    """Group rows by person."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row.person].append(row)
    return dict(groups)


def means(rows) -> dict[str, tuple[float, float, float]]:
    """Average each measure over clips: {measure: (mean, low, high)}, the 95 % interval by bootstrap over clips."""
    return {name: metrics.interval([getattr(row, name) for row in rows]) for name in MEASURES}


def means_over_people(rows) -> dict[str, tuple[float, float, float]]:
    """Average each measure over people, each the mean of their clips, with intervals by bootstrap over people."""
    people = by_person(rows).values()
    return {name: metrics.interval([_mean([getattr(r, name) for r in clips]) for clips in people]) for name in MEASURES}


def _mean(values):
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


# Files ----------------------------------------------------------------------------------------------------------------


def write_json(path, evaluation):
    """Write {"mean_low_high": {row: {measure: [mean, low, high]}}, "rows": [...], "skipped": {...}}; null is nan."""
    summary = {name: _known(means(rows)) for name, rows in by_row(evaluation.rows).items()}
    rows = [_known(dataclasses.asdict(row)) for row in evaluation.rows]
    content = {"mean_low_high": summary, "rows": rows, "skipped": evaluation.skipped}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _known(values):
    """Keep the values that are not nan (of tuples, the first counts)."""
    return {k: v for k, v in values.items() if not _is_nan(v[0] if isinstance(v, tuple) else v)}


def _is_nan(value):
    return isinstance(value, float) and math.isnan(value)


def read_json(paths) -> Evaluation:
    """Join what `write_json` wrote to several files. Raises UserError for other files and for a clip in two of them."""
    rows, skipped = [], collections.Counter()
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            new = [Row(**row) for row in content["rows"]]
            skipped.update(content["skipped"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"--scored {path} is not a file of this version's --json ({e!r}); "
                "give files that evaluate.py --json wrote"
            ) from None
        if twice := {row.clip for row in rows} & {row.clip for row in new}:
            raise UserError(f"--scored {path}: {min(twice)} is in another of these files too; give each clip once")
        rows += new
    return Evaluation(tuple(rows), dict(skipped))


def write_csv(path, evaluation):
    """Write one line for each clip and row, empty where a measure does not apply."""
    columns = ["clip", "person", "row", *(name for name in MEASURES if any_known(evaluation.rows, name))]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(_known(dataclasses.asdict(row)) for row in evaluation.rows)


def any_known(rows, name) -> bool:
    """Return whether a measure applies to any of the rows."""
    return any(not math.isnan(getattr(row, name)) for row in rows)
