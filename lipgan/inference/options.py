"""Options of inference: each is declared once, as a field with its default, range and help text.

The command line (`add_options`), the columns of `--jobs` (`replace_from_row`) and the Python API derive from the three
dataclasses here.
"""

# ruff: noqa: RUF009 ("option" and "switch" return a dataclasses.field)

import argparse
import dataclasses
import os
import pathlib

from lipgan.inference.reference import REFERENCE_MODES
from lipgan.media import video
from lipgan.media.container import check_file
from lipgan.models.backend import BACKENDS, PRECISIONS
from lipgan.models.metadata import KINDS
from lipgan.utils.cli import UserError

SHIPPED_CHECKPOINT = pathlib.Path(__file__).parents[2] / "weights" / "warp.weights.h5"
LONGEST_NAME = 255  # bytes, on nearly every file system
MIN_FACE_BOX = 8  # pixels


def option(default, help, **settings):
    """Declare a field that is an option; settings are those of `ArgumentParser.add_argument`."""
    return dataclasses.field(default=default, metadata={"help": help, **settings})


def switch(default, help):
    """Declare a boolean field: --NAME where the default is False, also --no-NAME where it is True."""
    return option(default, help, action=argparse.BooleanOptionalAction if default else "store_true")


@dataclasses.dataclass(frozen=True)
class Range:
    """An argparse type: a number from low to high."""

    low: float
    high: float
    kind: type = float

    def __call__(self, text):
        """Convert the text of one value. Raises ValueError, ArgumentTypeError for a number out of range."""
        value = self.kind(text)
        if not self.low <= value <= self.high:
            raise argparse.ArgumentTypeError(f"is out of range; give a number from {self.low:g} to {self.high:g}")
        return value


def boolean(text):
    """Convert True or False, an argparse type."""
    if text.lower() not in ("true", "false", "yes", "no"):
        raise argparse.ArgumentTypeError("is neither True nor False")
    return text.lower() in ("true", "yes")


EXPRESSIONS = {"keep": 1.0, "neutral": 0.0}


def expression_strength(text):
    """Convert keep, neutral or a number from 0 to 1 to a strength, an argparse type; a number and None pass."""
    try:
        return None if text is None else EXPRESSIONS[text] if text in EXPRESSIONS else Range(0, 1)(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError("is no expression; give keep, neutral or a number from 0 to 1") from None


SIDES = {"nargs": 4, "type": int, "metavar": ("T", "B", "L", "R")}


@dataclasses.dataclass(frozen=True)
class _Converter:
    """An argparse type whose errors are UserErrors that name the option."""

    name: str
    kind: type

    def __call__(self, text):
        try:
            return self.kind(text)
        except argparse.ArgumentTypeError as e:
            raise UserError(f"--{self.name} {text} {e}") from None
        except ValueError:
            raise UserError(f"--{self.name} {text} is not a number") from None


@dataclasses.dataclass(frozen=True)
class LipsyncOptions:
    """Everything a user can choose about a result, in the names of batch_inference.py's options.

    Raises UserError for a face box without area, and where several fields name a face.
    """

    fps: float | None = option(
        None,
        "frames per second of the result; a video is resampled by time (default: a video's own, 25 for an image)",
        type=Range(video.SLOWEST, video.FASTEST),
    )
    keep_fps: bool = switch(False, "a video keeps its own frame rate, whatever --fps says for still images")
    static: bool = option(
        False,
        "use the first frame of a video as a still image (default: %(default)s)",
        type=boolean,
        nargs="?",
        const=True,
        metavar="True|False",
    )
    audio_track: int | None = option(
        None,
        "which audio track of --audio, counted from 0 (default: the file's own choice, if it can be decoded and heard)",
        type=Range(0, 1000, int),
    )
    max_sec: float | None = option(
        None, "use only this many seconds of the audio (default: all)", type=Range(0.001, 1e6)
    )
    start: float = option(
        0.0, "use the video from this second on; the audio is used from its start", type=Range(0, 1e6)
    )
    end: float | None = option(None, "use the video up to this second (default: its end)", type=Range(0.001, 1e6))
    resize_factor: float | None = option(
        None,
        "divide the frame's sides by this; boxes and pads are then in pixels of the smaller frame (default: 1, or what "
        "fits larger frames into 3840 x 2160)",
        type=Range(0.25, 32),
    )
    detector: str | None = option(
        None, "face detector: dlib's CNN or HOG (default: the checkpoint's)", choices=("cnn", "hog")
    )
    face_det_checkpoint: pathlib.Path | None = option(
        None, "another .dat or .dat.bz2 for the CNN detector than the installed one", type=pathlib.Path
    )
    face_index: int | None = option(
        None, "which of several faces, counted from 0 from left to right (default: the largest)",
        type=Range(0, 1000, int),
    )  # fmt: skip
    face_box: tuple[int, int, int, int] | None = option(
        None,
        "the face at this place: top, bottom, left, right in pixels, brows to chin; without a face there, the box "
        "itself is used for all frames",
        **SIDES,
    )
    ref_face: pathlib.Path | None = option(None, "an image of the person whose face is meant", type=pathlib.Path)
    pads: tuple[int, int, int, int] | None = option(
        None,
        "pixels by which the face box grows at its top, bottom, left and right (default: the checkpoint's)",
        **SIDES,
    )
    sync_offset_ms: float | None = option(
        None,
        "audio offset in ms; positive values use later audio for each frame (default: the checkpoint's)",
        type=Range(-5000, 5000),
    )
    reference: str = option(
        REFERENCE_MODES[0],
        "reference of a video's frame: fitted, the frame with a nearly closed mouth of its shot; same, the frame "
        "itself (default: %(default)s)",
        choices=REFERENCE_MODES,
    )
    expression: float | None = option(
        None,
        "how much a still image's own expression, such as a smile, is kept: keep (1, as it is in pauses, with lips "
        "that meet in speech), neutral (0), or a number between (default: keep, unless the mouth is wide open)",
        type=expression_strength,
        metavar="keep|neutral|NUMBER",
    )
    motion_gain: float = option(
        1.0,
        "multiply the motion of the lips: less than 1 mumbles, 0 freezes the mouth, more exaggerates; beyond 1.5 lips "
        "lose their shape; --model warp only (default: %(default)g, as far as the person of a video moves them)",
        type=Range(0, 3),
    )
    silence_gate: bool | None = option(
        None,
        "fade the mouth to rest where the audio is silent for over 0.3 s (default: for generators that hear mel "
        "spectrograms; the shipped one knows silence, and hears breath in it)",
        action=argparse.BooleanOptionalAction,
    )
    box_cache: bool = switch(
        True, "keep the face track of a video in .boxes beside the result, for the next audio or checkpoint"
    )
    side_by_side: bool = switch(False, "put the source to the left of the result")
    crf: float = option(
        16.0, "quality of H.264 from 0 to 51, lower is better (default: %(default)g)", type=Range(0, 51)
    )
    lossless: bool = switch(False, "write H.264 in RGB, bit-exact, for measurements: large, and few players show it")
    preview: bool = switch(False, "also write a PNG of 8 moments beside the result")
    no_metadata: bool = switch(False, "leave out the comment in the file that says that it is synthetic")

    def __post_init__(self):
        if sum(value is not None for value in (self.face_index, self.face_box, self.ref_face)) > 1:
            raise UserError("--face_index, --face_box and --ref_face exclude each other; give one of them")
        for name, number in (("pads", self.pads), ("face_box", self.face_box)):
            if number is not None:
                object.__setattr__(self, name, tuple(number))
        if (
            self.face_box
            and min(self.face_box[1] - self.face_box[0], self.face_box[3] - self.face_box[2]) < MIN_FACE_BOX
        ):
            box = " ".join(map(str, self.face_box))
            raise UserError(f"--face_box {box} is not a box; give top, bottom, left, right in pixels")
        object.__setattr__(self, "expression", _Converter("expression", expression_strength)(self.expression))
        if self.reference not in REFERENCE_MODES:
            raise UserError(f"--reference {self.reference!r} is none of {', '.join(REFERENCE_MODES)}")

    def with_defaults(self, info):
        """Return the options with the detector and the pads of a checkpoint (its description; None: unknown)."""
        info = info or {}
        pads = info.get("pads", (0, 0, 0, 0)) if self.pads is None else self.pads
        return dataclasses.replace(self, detector=self.detector or info.get("detector", "cnn"), pads=tuple(pads))

    def gates_silence(self, audio_kind):
        """Return whether the mouth of a generator that hears this kind of features is at rest in silence."""
        return audio_kind == "mel" if self.silence_gate is None else self.silence_gate


@dataclasses.dataclass(frozen=True)
class RunnerOptions:
    """Which generator is used, and how it runs."""

    checkpoint_path: pathlib.Path = option(
        SHIPPED_CHECKPOINT,
        "the generator: X.weights.h5 of train_unet.py or train.py, or a legacy .h5 (default: the shipped warp)",
        type=pathlib.Path,
    )
    model: str | None = option(None, "kind of the generator (default: as the checkpoint says)", choices=KINDS)
    lipgan_batch_size: int | None = option(
        None, "faces per batch of the generator (default: 8, on a GPU 64)", type=Range(1, 4096, int)
    )
    precision: str = option(
        "auto",
        "inference precision; auto: bfloat16 for a residual generator where OpenVINO has it on this CPU, else float32 "
        "(default: %(default)s)",
        choices=PRECISIONS,
    )
    backend: str | None = option(
        None,
        "Keras backend (default: KERAS_BACKEND if set, else tensorflow or jax with a GPU, openvino without)",
        choices=BACKENDS,
    )


@dataclasses.dataclass(frozen=True)
class Job:
    """One result to be made: its inputs, its path, and all options."""

    face: pathlib.Path | None = option(None, "image or video of the face", type=pathlib.Path)
    audio: pathlib.Path | None = option(None, "the speech: an audio file, or a video with audio", type=pathlib.Path)
    results_dir: pathlib.Path = option(
        pathlib.Path("results"), "folder for <face>_<audio>.mp4 (default: %(default)s)", type=pathlib.Path
    )
    outfile: pathlib.Path | None = option(
        None, "path of the result (.mp4), instead of --results_dir", type=pathlib.Path
    )
    overwrite: bool = switch(False, "replace an existing result")
    runner: RunnerOptions = RunnerOptions()
    options: LipsyncOptions = LipsyncOptions()

    @property
    def out(self):
        """Path of the result."""
        return self.outfile or self.results_dir / f"{self.face.stem}_{self.audio.stem}.mp4"

    @property
    def inputs(self):
        """Paths of all inputs by option name; None where not given."""
        return {
            "checkpoint_path": self.runner.checkpoint_path,
            "face": self.face,
            "audio": self.audio,
            "face_det_checkpoint": self.options.face_det_checkpoint,
            "ref_face": self.options.ref_face,
        }

    def absolute(self):
        """Return the Job with absolute paths, for workers in another folder."""

        def with_absolute(group, **others):
            paths = {
                name: value for name in declared(type(group)) if isinstance(value := getattr(group, name), pathlib.Path)
            }
            return dataclasses.replace(group, **{name: path.absolute() for name, path in paths.items()}, **others)

        return with_absolute(self, **{name: with_absolute(getattr(self, name)) for name in GROUPS})

    def check(self):
        """Raise UserError for an input that does not exist, or a result that must not or cannot be written."""
        check_inputs(**self.inputs)
        check_result(self.out, self.inputs.values(), self.overwrite)
        if self.options.preview:
            check_result(self.out.with_suffix(".png"), self.inputs.values(), self.overwrite, ending=".png")


GROUPS = {"runner": RunnerOptions, "options": LipsyncOptions}  # fields of Job that hold options of their own


# The command line and the columns of --jobs ---------------------------------------------------------------------------


def declared(cls):
    """Return the fields of a dataclass that are options, by name."""
    return {field.name: field for field in dataclasses.fields(cls) if "help" in field.metadata}


def job_columns():
    """Return the names of all options of a Job: what a file of --jobs may have as columns."""
    return {name for cls in (Job, *GROUPS.values()) for name in declared(cls)}


def add_options(parser, *classes):
    """Add the options of these dataclasses (default: all of a Job) to a parser. Bad values raise UserError."""
    for cls in classes or (Job, *GROUPS.values()):
        for field in declared(cls).values():
            settings = dict(field.metadata)
            if "type" in settings:
                settings["type"] = _Converter(field.name, settings["type"])
            parser.add_argument(f"--{field.name}", default=field.default, **settings)


def job_from_args(args):
    """Return the Job of parsed arguments."""
    groups = {group: cls(**{name: getattr(args, name) for name in declared(cls)}) for group, cls in GROUPS.items()}
    return Job(**{name: getattr(args, name) for name in declared(Job)}, **groups)


def replace_from_row(job, row):
    """Return the Job with the options that a row of a CSV file names (text by column). Raises UserError.

    An empty cell leaves the option as it is; a switch has True, yes, False or no; several values have spaces between.
    """
    changes = {cls: {} for cls in (Job, *GROUPS.values())}
    for name, text in row.items():
        if text := (text or "").strip():
            cls = next(cls for cls in changes if name in declared(cls))
            changes[cls][name] = _read_cell(declared(cls)[name], text)
    groups = {group: dataclasses.replace(getattr(job, group), **changes[cls]) for group, cls in GROUPS.items()}
    job = dataclasses.replace(job, **changes[Job], **groups)
    if job.face is None or job.audio is None:
        raise UserError("the row lacks its face or its audio; fill in both")
    return job


def _read_cell(field, text):
    """Return the value of an option that a cell gives."""
    settings = field.metadata
    if settings.get("action"):
        return _Converter(field.name, boolean)(text)
    if choices := settings.get("choices"):
        if text not in choices:
            raise UserError(f"--{field.name} {text} is none of {', '.join(choices)}")
        return text
    convert = _Converter(field.name, settings["type"])
    if not isinstance(settings.get("nargs"), int):
        return convert(text)
    values = tuple(convert(value) for value in text.split())
    if len(values) != settings["nargs"]:
        raise UserError(f"--{field.name} {text}: {len(values)} values, not {settings['nargs']}")
    return values


# Files ----------------------------------------------------------------------------------------------------------------


def check_inputs(**paths):
    """Raise UserError for paths, by the names of their options, that are not readable files (None: not given)."""
    for name, path in paths.items():
        if path is not None:
            try:
                check_file(path)
            except UserError as e:
                raise UserError(f"--{name} {e}") from None


def check_result(path, inputs, overwrite, option="outfile", ending=".mp4"):
    """Raise UserError for a file that must not or cannot be written. option: the one that gives it its name."""
    if path.suffix.lower() != ending:
        raise UserError(f"--{option} {path}: the file will be {ending[1:]}; give a name that ends in {ending}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path.name[:40]}... is too long for a name; give a shorter one with --{option}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give another --{option}")
    if path.exists() and any(path.samefile(file) for file in inputs if file):
        raise UserError(f"{path} is one of the inputs; give another --{option}")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; give --overwrite to replace it, or another --{option}")
    folder = next(p for p in (path.parent, *path.parent.parents) if p.exists())
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder; give another --{option}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; give another --{option}")
