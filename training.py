"""What train_unet.py and train.py share: options, batches, the step, what is told at every epoch, and resuming.

A run is a folder:

    args.json                    every option, versions and the command
    stats.jsonl                  a line at every epoch
    samples/epoch_0001.png       reference | input | result | truth
    NAME.weights.h5, NAME.json   the generator for users (and NAME_disc.* the discriminator)
    state.weights.h5             everything needed to go on: both networks, the optimizer, the epoch and the batch
"""

import contextlib
import json
import pathlib
import platform
import signal
import subprocess
import sys
import time
import zlib

import cv2
import h5py
import keras
import numpy as np
from keras import ops

import options
from audio_hparams import hparams
from checkpoint import ENDING, load_discriminator, load_generator, save_discriminator, save_generator
from dataset import FaceDataset, find_clips, read_settings, setting_differences
from discriminator import build_discriminator
from errors import UserError, whole_file
from faces import generator_input
from generator import build_generator
from memory import KeepsMemory
from metrics import area_under_curve
from mouth import MouthLoss, prepare_expert, pretrain_audio_encoder
from step import TrainingStep, settle_statistics

STATE_NAME = "state.weights.h5"
STATE_ATTRIBUTE = "lipgan_state"  # of the HDF5 file: JSON with epoch, batch and what the networks are
SAMPLES_SHOWN = 8
SETTLING_BATCHES = 120  # over which batch norm's statistics are taken for the users' weights
RESUME_ME = 75  # exit status of a run that was stopped and can be resumed (EX_TEMPFAIL)


class Batches(keras.utils.PyDataset):
    """One epoch of batches for `fit()`, from `first` on: ({face, mel, wrong_mel}, target), all float32.

    The batch is a pure function of (seed, epoch, number), so an epoch can be taken up anywhere.
    """

    def __init__(self, dataset, size, seed, epoch, first, last, workers=2):
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=8)
        self.dataset, self.size, self.key, self.first, self.last = dataset, size, (seed, epoch), first, last

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        return as_inputs(self.dataset.batch((*self.key, self.first + index), self.size))


def as_inputs(batch):
    """A batch of `FaceDataset` as the step takes it: ({face, mel, wrong_mel}, target), float32, pictures in [0, 1]."""
    face = generator_input(batch["reference"], batch["target"])
    target = batch["target"].astype("float32") / np.float32(255)
    return {"face": face, "mel": batch["mel"], "wrong_mel": batch["wrong_mel"]}, target


class EpochReport(keras.callbacks.Callback):
    """At every epoch: validation with own and with another clip's sound, a line of stats.jsonl, a picture."""

    def __init__(self, folder, dataset, batch_size, num_samples):
        super().__init__()
        self.folder = folder
        # The same samples every time; they are small enough to keep.
        self.batches = list(dataset.validation_batches(batch_size, num_samples)) if dataset else []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "batches": int(ops.convert_to_numpy(self.model.optimizer.iterations))}
        row |= {"learning_rate": float(ops.convert_to_numpy(self.model.optimizer.learning_rate))}
        row |= {name: float(value) for name, value in logs.items()}
        row |= self.validate(epoch) | {"epoch_s": round(time.monotonic() - self.began, 1)}
        with (self.folder / "stats.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        told = [f"{name} {value:.4f}" for name, value in row.items() if name.startswith("val_")]
        print(f"epoch {epoch + 1}: {', '.join(told)}", flush=True)

    def validate(self, epoch):
        """Errors with own and other sound, and how well the discriminator tells them apart. Returns values by name."""
        if not self.batches:
            return {}
        errors, other_errors, distances, other_distances = [], [], [], []
        for number, batch in enumerate(self.batches):
            x, y = as_inputs(batch)
            result = self.model.generator.predict_on_batch([x["face"], x["mel"]])
            other = self.model.generator.predict_on_batch([x["face"], x["wrong_mel"]])
            errors.append(_errors(result, y))
            other_errors.append(_errors(other, y))
            if self.model.discriminator:
                distances.append(self.model.discriminator.predict_on_batch([y, x["mel"]])[:, 0])
                other_distances.append(self.model.discriminator.predict_on_batch([y, x["wrong_mel"]])[:, 0])
            if number == 0:
                write_samples(self.folder / "samples" / f"epoch_{epoch + 1:04d}.png", x["face"], result, y)
        (mae, lower), (other_mae, other_lower) = np.mean(errors, axis=0), np.mean(other_errors, axis=0)
        row = {"val_mae": mae, "val_mae_other_sound": other_mae, "val_gap": other_mae - mae}
        row |= {"val_lower_mae": lower, "val_lower_gap": other_lower - lower}
        if distances:
            row["val_auc"] = area_under_curve(np.concatenate(distances), np.concatenate(other_distances))
        return {name: float(value) for name, value in row.items()}


def _errors(result, y):
    """Mean absolute error of the whole crop, and of the half that had to be made."""
    error = np.abs(result - y)
    return error.mean(), error[:, error.shape[1] // 2 :].mean()


def write_samples(path, face, result, truth):
    """A picture of up to 8 columns, rows reference | input | result | truth. All (B, S, S, ...) float32 in [0, 1]."""
    picks = np.linspace(0, len(face) - 1, min(SAMPLES_SHOWN, len(face))).astype(int)
    rows = [face[picks, ..., :3], face[picks, ..., 3:], result[picks], truth[picks]]
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    with whole_file(path) as temporary:
        cv2.imwrite(str(temporary), np.round(np.clip(picture, 0, 1) * 255).astype("uint8"))


class Checkpoints(keras.callbacks.Callback):
    """Saves the state and the users' weights every `freq` batches, and before the process is ended by a signal."""

    def __init__(self, folder, name, described, freq):
        super().__init__()
        self.folder, self.name, self.described, self.freq = folder, name, described, freq
        self.position, self.signal = {"epoch": 0, "batch": 0}, None

    def on_train_batch_end(self, batch, logs=None):
        self.position["batch"] += 1
        loss = float(logs["loss"])
        if not np.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at epoch {self.position['epoch'] + 1}, batch {self.position['batch']}; "
                f"the last good checkpoint is {self.folder / STATE_NAME}: "
                "resume from it with a smaller --lr, or with --precision float32"
            )
        if self.signal:
            self.save()
            raise Stopped(f"stopped by signal {self.signal}; go on with --resume {self.folder / STATE_NAME}")
        if self.position["batch"] % self.freq == 0:
            self.save()

    def save(self):
        """Write the weights of each network for users, and the state of training."""
        step, described = self.model, self.save_generator()
        if step.discriminator:
            described_disc = described | {"model": "discriminator"}
            save_discriminator(self.folder / f"{self.name}_disc{ENDING}", step.discriminator, described_disc)
        with whole_file(self.folder / STATE_NAME) as temporary:
            step.save_weights(temporary, overwrite=True)
            with h5py.File(temporary, "a") as file:
                file.attrs[STATE_ATTRIBUTE] = json.dumps(described | self.position)

    def save_generator(self):
        """Write the generator for users. Returns what its JSON says."""
        described = self.described | {"step": int(ops.convert_to_numpy(self.model.optimizer.iterations))}
        save_generator(self.folder / f"{self.name}{ENDING}", self.model.generator, described)
        return described


class Stopped(Exception):
    """Training was asked to end, and its state is saved."""


def read_state(path):
    """What a training state says of itself, or None where the file is not one. Raises UserError where there is none."""
    path = pathlib.Path(path)
    if path.is_dir():
        path /= STATE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a {STATE_NAME}, a {ENDING} or a legacy .h5 file")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is no HDF5 file; give a {STATE_NAME}, a {ENDING} or a legacy .h5 file")
    with h5py.File(path) as file:
        state = file.attrs.get(STATE_ATTRIBUTE)
    return json.loads(state) | {"path": path} if state else None


def _start(wanted, resume, resume_gen, resume_disc, with_discriminator):
    """Both networks, from what is to be resumed or anew, and the state to go on from (or None).

    wanted: kind, img_size, width. Says what it found in each file.
    """
    kind, img_size, width = wanted
    state = read_state(resume) if resume else None
    if state:
        architecture = (state["model"], state["img_size"], state["width"])
        if architecture != wanted or state["with_discriminator"] != with_discriminator:
            script = "train.py" if state["with_discriminator"] else "train_unet.py"
            raise UserError(
                f"{state['path']} is a state of {script} --model {architecture[0]} --img_size {architecture[1]} "
                f"--width {architecture[2]}; give these, or start from its weights with --resume_gen"
            )
        print(f"{state['path']}: a training state, epoch {state['epoch'] + 1}, batch {state['batch']}")
        resume_gen = resume_disc = None
    gen_file = resume_gen or (None if state else resume)
    if gen_file and (other := read_state(gen_file)):
        generator = _from_state(other, wanted)
    elif gen_file:
        generator, info = load_generator(gen_file, kind, img_size, width)
        print(f"{gen_file}: a generator's weights ({info['format']}); batches are counted from 0")
    else:
        generator = build_generator(kind, img_size, width)
    if not with_discriminator:
        return generator, None, state
    if resume_disc:
        discriminator, info = load_discriminator(resume_disc, img_size, width)
        print(f"{resume_disc}: a discriminator's weights ({info['format']})")
    else:
        discriminator = build_discriminator(img_size, width)
    return generator, discriminator, state


def _from_state(state, wanted):
    """The generator inside another run's training state."""
    architecture = (state["model"], state["img_size"], state["width"])
    if architecture != wanted:
        raise UserError(f"{state['path']} is of {architecture}, not of the {wanted} that was asked for")
    generator = build_generator(*architecture)
    discriminator = build_discriminator(*architecture[1:]) if state["with_discriminator"] else None
    TrainingStep(generator, discriminator).load_weights(state["path"])
    print(f"{state['path']}: a training state; its generator is taken, and batches are counted from 0")
    return generator


def _open_folder(logdir, state):
    """The run's folder: the one that is resumed, or a new one that holds no run yet."""
    if state:
        return state["path"].parent
    folder, number = pathlib.Path(logdir), 1
    while (folder / "args.json").exists():
        number += 1
        folder = pathlib.Path(f"{str(logdir).rstrip('/')}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _record(folder, values, state):
    """Write args.json; of stats.jsonl keep only what came before the state that is resumed."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        commit = ""
    record = {"command": sys.argv, "options": values, "hparams": hparams.as_dict(), "git": commit}
    record |= {"versions": {"python": platform.python_version(), "keras": keras.__version__}}
    record |= {"backend": keras.backend.backend()}
    name = "args.json" if not state else f"args_from_epoch_{state['epoch'] + 1}_batch_{state['batch']}.json"
    with whole_file(folder / name) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    stats = folder / "stats.jsonl"
    if state and stats.exists():
        lines = [line for line in stats.read_text().splitlines() if json.loads(line)["epoch"] <= state["epoch"]]
        with whole_file(stats) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines))


def read_datasets(data_root, filelists, img_size, **sampling):
    """The training and the validation samples (None where there are none), with a line for all that is left out."""
    differences = setting_differences(read_settings(data_root), img_size=img_size)
    if differences:
        raise UserError(f"{data_root} was made otherwise ({'; '.join(differences)}); preprocess it again")
    datasets = []
    for split in ("train", "val"):
        clips, notes = find_clips(data_root, split, filelists)
        print("\n".join(notes), end="\n" if notes else "")
        if split == "val" and not clips:
            print("WARNING: no clip of val.txt is there: nothing is validated")
            datasets.append(None)
            continue
        dataset = FaceDataset(clips, img_size, **(sampling if split == "train" else {}))
        skipped = "".join(f"; {count} left out: {reason}" for reason, count in dataset.skipped.items())
        print(f"{split}: {len(dataset.clips)} clips, {len(dataset)} frames{skipped}", flush=True)
        datasets.append(dataset)
    return datasets


def _mouth_expert(dataset, data_root):
    """The mouth expert of these training clips, kept in data_root; other clips have another one."""
    names = "\n".join("/".join(clip.folder.parts[-2:]) for clip in dataset.clips)
    which = f"{dataset.img_size}_{zlib.crc32(names.encode()):08x}"
    return prepare_expert(dataset, pathlib.Path(data_root) / f"mouth_expert_{which}{ENDING}")


def train(*, with_discriminator, data_root, filelists, logdir, model, width, img_size, checkpoint_name, checkpoint_freq,
          epochs, steps, steps_per_epoch, batch_size, lr, lr_decay_steps, precision, mouth_weight, landmark_weight,
          pretrain_audio, balance, augment, workers, val_samples, seed, resume=None, resume_gen=None, resume_disc=None,
          **recorded):  # fmt: skip
    """Train as the options of the same names say, and return the exit status: 0, or 75 when stopped and resumable."""
    values = {k: v for k, v in locals().items() if k != "recorded"} | recorded
    if recorded.get("all_images"):
        print("--all_images is ignored: folders are indexed anew")
    if recorded.get("n_gpu", 1) > 1:
        print(f"WARNING: --n_gpu {recorded['n_gpu']}: one device trains; several are not supported yet")
    gpu = options.has_gpu()
    batch_size = batch_size or (96 if gpu else 16)
    precision = precision or ("mixed_bfloat16" if gpu or options.has_bfloat16() else "float32")
    print(f"{keras.backend.backend()} on {'GPU' if gpu else 'CPU'}, {precision}, batches of {batch_size}")
    train_set, val_set = read_datasets(data_root, filelists, img_size, balance=balance, augment=augment)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    wanted = (model, img_size, width)
    generator, discriminator, state = _start(wanted, resume, resume_gen, resume_disc, with_discriminator)
    expert = _mouth_expert(train_set, data_root) if landmark_weight or pretrain_audio else None
    if pretrain_audio and not (state or resume or resume_gen):
        pretrain_audio_encoder(generator, expert, train_set, val_set, pretrain_audio, seed)
    mouth_loss = MouthLoss(expert, img_size, mouth_weight, landmark_weight) if mouth_weight or landmark_weight else None
    step = TrainingStep(generator, discriminator, mouth=mouth_loss)
    rate = keras.optimizers.schedules.CosineDecay(lr, lr_decay_steps) if lr_decay_steps else lr
    step.compile(optimizer=keras.optimizers.Adam(rate))
    step.optimizer.build(step.trainable_variables)  # unbuilt, its state would not be loaded, without a word
    if state:
        step.load_weights(state["path"])

    settings = read_settings(data_root)
    described = {"model": model, "img_size": img_size, "width": width, "with_discriminator": with_discriminator}
    described |= {"hparams": hparams.as_dict(), "sync_offset_ms": 0, "seed": seed}
    described |= {name: settings[name] for name in ("detector", "pads") if name in settings}
    folder = _open_folder(logdir, state)
    _record(folder, values, state)
    print(f"run folder: {folder}", flush=True)
    checkpoints = Checkpoints(
        folder, checkpoint_name.removesuffix(".h5").removesuffix(".weights"), described, checkpoint_freq
    )
    report = EpochReport(folder, val_set, batch_size, val_samples)
    per_epoch = min(train_set.num_batches(batch_size), steps_per_epoch or sys.maxsize)
    return _loop(step, train_set, checkpoints, report, state, per_epoch, epochs, steps, batch_size, seed, workers)


def _loop(step, train_set, checkpoints, report, state, per_epoch, epochs, steps, batch_size, seed, workers):
    """One `fit()` an epoch, so that an epoch can be taken up in its middle. Returns the exit status."""
    first = {"epoch": 0, "batch": 0} | {k: v for k, v in (state or {}).items() if k in ("epoch", "batch")}
    steps = min(steps or sys.maxsize, epochs * per_epoch)
    with _signals(checkpoints):
        for epoch in range(first["epoch"], -(-steps // per_epoch)):
            begin = first["batch"] if epoch == first["epoch"] else 0
            end = min(per_epoch, steps - epoch * per_epoch)
            checkpoints.position = {"epoch": epoch, "batch": begin}
            try:
                if begin < end:
                    batches = Batches(train_set, batch_size, seed, epoch, begin, end, workers)
                    shown = "auto" if sys.stdout.isatty() else 2
                    callbacks = [checkpoints, report, KeepsMemory()]
                    step.fit(
                        batches,
                        initial_epoch=epoch,
                        epochs=epoch + 1,
                        shuffle=False,
                        callbacks=callbacks,
                        verbose=shown,
                    )
            except Stopped as e:
                print(e)
                return RESUME_ME
            checkpoints.position = {"epoch": epoch + 1, "batch": 0} if end == per_epoch else checkpoints.position
            checkpoints.save()
    # The state keeps the statistics as they are, so that it can be resumed exactly.
    settled = Batches(train_set, batch_size, seed, epochs, 0, min(SETTLING_BATCHES, steps), workers)
    settle_statistics(step.generator, (settled[number] for number in range(len(settled))))
    checkpoints.save_generator()
    print(checkpoints.folder / f"{checkpoints.name}{ENDING}")
    return 0


@contextlib.contextmanager
def _signals(checkpoints):
    """While training, SIGINT and SIGTERM save the state before they end it."""

    def remember(number, frame):
        checkpoints.signal = signal.Signals(number).name

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
