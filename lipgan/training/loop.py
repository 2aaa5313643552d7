"""The training run of train_unet.py and train.py: networks, data, pre-training stages, main loop, final weights."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import signal
import sys
import zlib

import keras

from audio_hparams import hparams
from discriminator import build_discriminator
from lipgan.data.clip_folder import read_settings, setting_differences
from lipgan.data.dataset import FaceDataset
from lipgan.data.filelists import find_clips
from lipgan.data.index import open_index
from lipgan.data.lip_landmarks import read_landmarks
from lipgan.data.speech_features import read_features
from lipgan.models import backend
from lipgan.models.checkpoint import ENDING, build_generator, load_discriminator, load_generator
from lipgan.models.hdf5_claims import readable
from lipgan.training import distributed
from lipgan.training.audio_to_lips import LipMotionConfig, train_audio_to_lips
from lipgan.training.callbacks import Checkpoints, EpochReport, KeepFreedMemory, LossWatch, Progress, ProgressBar
from lipgan.training.config import TrainConfig, read_state, state_architecture
from lipgan.training.lip_expert import build_expert, prepare_expert, pretrain_audio_encoder
from lipgan.training.loader import BatchLoader
from lipgan.training.losses import MouthLoss, TrainingStep, recalibrate_batch_norm
from lipgan.training.optimizer import ExportedNetworks, build_optimizer, learning_rate
from lipgan.training.run_dir import open_folder, write_record
from lipgan.utils.cli import UserError

RECALIBRATION_BATCHES = 120  # for batch norm's statistics in the final weights
VOICES = 8  # versions of each clip's speech that --augment keeps: its own and augmented ones
EXIT_RESUMABLE = 75  # exit status of a run that stopped and can be resumed (EX_TEMPFAIL)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EPOCHS = 100  # if neither --epochs nor --steps is given


class Stopped(Exception):
    """A signal ended the run, and its state is saved."""


class FullDisk(Exception):
    """A full disk ended the run."""

    exit_status = EXIT_RESUMABLE


@dataclasses.dataclass(frozen=True)
class Datasets:
    """The samples of a run."""

    train: FaceDataset
    val: FaceDataset | None  # None: no clip of val.txt exists


@dataclasses.dataclass(frozen=True)
class Networks:
    """A generator, and the discriminator where there is one."""

    generator: keras.Model
    discriminator: keras.Model | None = None


def _read_resumed_state(config):
    """Read the training state that config.resume continues; None for a new run. Raises UserError if it does not fit."""
    state = read_state(config.resume) if config.resume else None
    if state is None:
        return None
    if (architecture := state_architecture(state)) != config.architecture:
        raise UserError(
            f"{state['path']} is a state of {architecture}; give these options, or start from its weights with "
            "--resume_gen"
        )
    for name, value in _optimizer_slots(config).items():
        before = state.get(name, value)
        if before != value:
            option = {"accumulate": f"--accumulate {before}", "averages": "--ema" if before else "no --ema"}
            needed = option.get(name, f"--precision {state.get('options', {}).get('precision')}")
            raise UserError(f"{state['path']} is a state of a run with {needed}; give that, or start from its weights")
    print(f"{state['path']}: training state, epoch {state['epoch'] + 1}, batch {state['batch']}")
    return state


def _optimizer_slots(config):
    """Return the options that decide which variables the optimizer has: Keras silently loads none if they differ."""
    return {
        "accumulate": config.accumulate,
        "averages": config.ema is not None,
        "scales": config.precision == "mixed_float16",
    }


def build_networks(config, state):
    """Build both networks, and load the weights to start from. Prints what each file is.

    state: from `_read_resumed_state`; its weights are loaded later, together with the optimizer's.
    """
    architecture = config.architecture
    gen_file = None if state else config.resume_gen or config.resume
    if gen_file and (other := read_state(gen_file)):
        generator = _generator_of_state(other, architecture)
    elif gen_file:
        generator, info = load_generator(gen_file, *architecture.generator)
        print(f"{gen_file}: generator weights ({info['format']}); batches are counted from 0")
    else:
        generator = build_generator(*architecture.generator)
    if not config.with_discriminator:
        return Networks(generator)
    if config.resume_disc and not state:
        discriminator, info = load_discriminator(config.resume_disc, *architecture.discriminator)
        print(f"{config.resume_disc}: discriminator weights ({info['format']})")
    else:
        discriminator = build_discriminator(*architecture.discriminator)
    return Networks(generator, discriminator)


def _generator_of_state(state, requested):
    """Load the generator of another run's training state."""
    architecture = state_architecture(state)
    if architecture.generator != requested.generator:
        raise UserError(f"{state['path']} is a state of {architecture}, not of {requested}; give the same architecture")
    generator = build_generator(*architecture.generator)
    discriminator = build_discriminator(*architecture.discriminator) if architecture.with_discriminator else None
    with readable(state["path"]):
        TrainingStep(generator, discriminator).load_weights(state["path"])
    print(f"{state['path']}: training state; its generator is used, and batches are counted from 0")
    return generator


def read_datasets(config):
    """Read the training and validation sets that `config` describes. Prints their sizes and what is excluded."""
    differences = setting_differences(read_settings(config.data_root), img_size=config.img_size)
    if differences:
        raise UserError(
            f"{config.data_root} was preprocessed with other settings ({'; '.join(differences)}); preprocess it again"
        )
    index = open_index(config.data_root)
    lists = {
        split: find_clips(config.data_root, split, config.filelists, index, config.leave_out)
        for split in ("train", "val")
    }
    needs_landmarks = config.model == "warp" or (config.pretrain_audio and config.starts_fresh)
    arrays = {"landmarks": read_landmarks(index)} if needs_landmarks else {}
    if config.model == "warp":
        arrays["speech"] = read_features(index, VOICES if config.augment else 1)
    datasets = {}
    for split, (clips, notes) in lists.items():
        print("\n".join(notes), end="\n" if notes else "")
        if split == "val" and not clips:
            print("WARNING: no clip of val.txt exists; there is no validation")
            datasets[split] = None
            continue
        sampling = {"balance": config.balance, "augment": config.augment} if split == "train" else {}
        dataset = datasets[split] = FaceDataset(clips, config.img_size, index=index, **arrays, **sampling)
        skipped = "".join(f"; {count} excluded: {reason}" for reason, count in dataset.skipped.items())
        print(f"{split}: {len(dataset.clips)} clips, {len(dataset)} frames{skipped}", flush=True)
    return Datasets(**datasets)


def expert_path(dataset, data_root):
    """Return the file of the mouth expert that was trained on these clips."""
    names = "\n".join("/".join(clip.folder.parts[-2:]) for clip in dataset.clips)
    return pathlib.Path(data_root) / f"lips_expert_{dataset.img_size}_{zlib.crc32(names.encode()):08x}{ENDING}"


def _pretrain_audio(config, datasets, generator):
    pretrain_audio_encoder(generator, datasets.train, datasets.val, config.pretrain_audio, config.seed)


def _train_audio_to_lips(config, datasets, generator):
    settings = LipMotionConfig(steps=config.audio_steps, seed=config.seed)
    train_audio_to_lips(generator, datasets.train, datasets.val, settings, [KeepFreedMemory()])


def pretraining_stages(config):
    """Return the pre-training stages of parts of the generator, in order.

    Each is a function (config, datasets, generator) -> None that changes the generator in place. They run once, in the
    main process, and only for a generator that starts from random weights.
    """
    if config.model == "warp":
        return [_train_audio_to_lips]
    return [_pretrain_audio] if config.pretrain_audio else []


def train(config: TrainConfig) -> int:
    """Train as `config` says. Returns the exit status: 0, or 75 when stopped by a signal or a full disk."""
    try:
        with distributed.launch(config) as placement:
            return _train(config, placement)
    except FullDisk as e:
        print(e)
        return EXIT_RESUMABLE


def _train(config, placement):
    config = _fill_in_defaults(config, placement)
    print(f"{keras.backend.backend()} on {placement}, {config.precision}, batches of {config.batch_size}")
    state = _read_resumed_state(config)
    with placement.main_process_first():  # it writes the index and the landmarks that the others read
        datasets = read_datasets(config)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    networks = build_networks(config, state)
    expert = None
    if config.landmark_weight:
        if placement.is_main_process:
            expert = prepare_expert(datasets.train, expert_path(datasets.train, config.data_root))
        else:
            expert = build_expert(config.img_size)  # gets the main process's weights in `_build_step`
    for stage in pretraining_stages(config) if config.starts_fresh and placement.is_main_process else ():
        stage(config, datasets, networks.generator)
    step, exported = _build_step(config, placement, networks, expert, state)
    loop = _build_loop(config, placement, datasets, step, exported, state)
    try:
        loop.run()
        if placement.is_main_process:
            loop.export_final_weights()
            print(loop.checkpoints.weights_path)
    except Stopped as e:
        print(e)
        return EXIT_RESUMABLE
    except OSError as e:
        if e.errno not in FULL_DISK:
            raise
        raise FullDisk(_describe_full_disk(loop, e)) from e
    return 0


def _fill_in_defaults(config, placement):
    """Choose batch size and precision by device where the user did not, and check what depends on the device."""
    batch_size = config.batch_size or (16 if placement.devices.kind == "CPU" else 96)
    distributed.check_batch_size(batch_size, placement.num_devices)
    supported = "mixed_bfloat16" if backend.has_bfloat16(placement.devices.kind) else "float32"
    if config.lr_decay_steps and (config.warmup_steps or 0) >= config.lr_decay_steps:
        raise UserError(
            f"--warmup_steps {config.warmup_steps} is not below --lr_decay_steps {config.lr_decay_steps}; lower it"
        )
    return dataclasses.replace(config, batch_size=batch_size, precision=config.precision or supported)


def _build_step(config, placement, networks, expert, state):
    """Build the compiled TrainingStep on its devices, with a resumed state loaded.

    Returns it and the Networks on one device that are validated and exported: the step's own where they can be.
    """
    architecture = config.architecture
    generator = placement.replicate(
        networks.generator, lambda: build_generator(*architecture.generator, synchronized=True)
    )
    discriminator = placement.replicate(
        networks.discriminator, lambda: build_discriminator(*architecture.discriminator)
    )
    mouth_loss = None
    if config.mouth_weight or config.landmark_weight:
        judge = placement.replicate(expert, lambda: build_expert(config.img_size))
        mouth_loss = MouthLoss(judge, config.img_size, config.mouth_weight, config.landmark_weight)
    exported = networks
    if config.ema is not None and networks.generator is generator:  # averages need networks that are not trained
        copy = build_discriminator(*architecture.discriminator) if discriminator else None
        exported = Networks(build_generator(*architecture.generator), copy)
    rate = learning_rate(config.lr, config.warmup_steps, config.lr_decay_steps)
    with placement.build_scope():
        step = TrainingStep(generator, discriminator, mouth=mouth_loss, num_replicas=placement.num_replicas)
        step.compile(optimizer=build_optimizer(rate, config.accumulate, config.ema))
        step.optimizer.build(step.trainable_variables)  # Keras silently skips the state of an unbuilt optimizer
        if state:
            with readable(state["path"]):
                step.load_weights(state["path"])
    return step, exported


def _describe(config):
    """Describe the run for state.weights.h5 and the JSON beside the exported weights."""
    settings = read_settings(config.data_root)
    description = dataclasses.asdict(config.architecture) | _optimizer_slots(config)
    description |= {"hparams": hparams.as_dict(), "sync_offset_ms": 0, "seed": config.seed, "options": config.as_dict()}
    return description | {name: settings[name] for name in ("detector", "pads") if name in settings}


def _build_loop(config, placement, datasets, step, exported, state):
    """Open the run folder, and build the main loop with everything that reports and saves."""
    folder = pathlib.Path(config.logdir)
    if placement.is_main_process:
        folder = open_folder(config.logdir, state)
        write_record(folder, config.as_dict(), state)
    print(f"run folder: {folder}", flush=True)
    per_epoch = min(datasets.train.num_batches(config.batch_size), config.steps_per_epoch or sys.maxsize)
    epochs = config.epochs or (sys.maxsize if config.steps else EPOCHS)
    progress = Progress.resume(min(config.steps or sys.maxsize, per_epoch * epochs), state)
    rows = placement.rows(config.batch_size)
    loader = BatchLoader(datasets.train, config.batch_size, config.seed, config.workers, per_epoch, rows)
    exported = ExportedNetworks(step, (exported.generator, exported.discriminator), loader.first_batches)
    name = config.checkpoint_name.removesuffix(".h5").removesuffix(".weights")
    checkpoints = Checkpoints(folder, name, _describe(config), exported, progress)
    report = None
    if placement.is_main_process:
        validation = datasets.val.validation_batches(config.batch_size, config.val_samples) if datasets.val else ()
        rate = learning_rate(config.lr, config.warmup_steps, config.lr_decay_steps)
        report = EpochReport(folder, list(validation), exported, progress, rate)
        if not state:
            with distributed.single_device():
                checkpoints.save_state(step)
    loop = TrainingLoop(loader, progress, checkpoints, report, placement, config.checkpoint_freq)
    loop.set_model(step)
    return loop


class TrainingLoop(keras.callbacks.Callback):
    """The main loop: an epoch is one `fit()`, and this callback does in order what follows each batch.

    fit() and not train_on_batch(): under tf.distribute only fit() divides a batch among the devices (of 8 samples, two
    replicas get 4 each; train_on_batch() gives both all 8). On JAX train_on_batch() attaches the state to the model
    after every step, which fit() avoids as "a big performance bottleneck". And fit() reads while the device computes.
    """

    def __init__(self, loader, progress, checkpoints, report, placement, checkpoint_freq):
        """report: an EpochReport, in the main process; None in others. checkpoint_freq: batches."""
        super().__init__()
        self.loader, self.progress, self.checkpoints, self.report = loader, progress, checkpoints, report
        self._placement, self._checkpoint_freq = placement, checkpoint_freq
        self._loss_watch, self._bar = LossWatch(), ProgressBar(progress)
        self._signal, self._save_is_due = None, False

    def run(self):
        """Train to the last batch. Raises Stopped after SIGINT or SIGTERM, when the state is saved."""
        with self._catch_signals(), self._placement.fit_scope():
            for epoch in range(self.progress.epoch, -(-self.progress.total // self.loader.per_epoch)):
                self._train_epoch(epoch)
        self._bar.close()

    def _train_epoch(self, epoch):
        """Train the rest of an epoch; report and save it."""
        begin = self.progress.batch
        end = min(self.loader.per_epoch, self.progress.total - epoch * self.loader.per_epoch)
        if begin < end:
            batches = self.loader.batches(epoch, begin, end)
            callbacks = [self, KeepFreedMemory()]
            history = self.model.fit(
                batches, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, callbacks=callbacks, verbose=0
            )
            if self.report:
                self.report.add_epoch(epoch, {name: values[-1] for name, values in history.history.items()})
        if end == self.loader.per_epoch:
            self.progress.end_epoch()
        self._save()
        if self.progress.batches < self.progress.total:
            self._stop_if_requested()

    def on_epoch_begin(self, epoch, logs=None):
        """Continue the running means of a resumed epoch."""
        sums, self.progress.metric_sums = self.progress.metric_sums, None
        self._loss_watch.begin_epoch(self.progress.batch if sums else 0)
        for variable, value in zip(self.model.metrics_variables, sums or (), strict=False):
            variable.assign(value)
        if self.report:
            self.report.begin_epoch()

    def on_train_batch_end(self, batch, logs=None):
        """Count the batch, check its losses, and save or stop if due."""
        self.progress.advance()
        if problem := self._loss_watch.check(logs):
            raise self.checkpoints.failure(problem)
        if self.report:
            self.report.add_batch(logs)
        self._bar.update(logs)
        if batch + 1 == self.params["steps"]:
            return  # the epoch is reported first, then saved
        self._stop_if_requested()
        self._save_is_due = self._save_is_due or self.progress.batches % self._checkpoint_freq == 0
        if self._save_is_due and not self._loss_watch.is_spike():
            self._save()

    def _save(self):
        self._save_is_due = False
        if self._placement.is_main_process:
            self.checkpoints.save(self.model)

    def _stop_if_requested(self):
        """Save and raise Stopped if any process got a signal; all processes call this after the same batches."""
        if self._placement.any_process(self._signal is not None):
            self._save()
            name = self._signal or "to another process"
            raise Stopped(f"stopped by signal {name}; continue with --resume {self.checkpoints.state_path}")

    @contextlib.contextmanager
    def _catch_signals(self):
        """Context in which SIGINT and SIGTERM are noted for `_stop_if_requested`."""

        def note(number, frame):
            self._signal = signal.Signals(number).name

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def export_final_weights(self):
        """Write the weights for users with recalibrated batch norm; the state keeps its own, to be resumed exactly."""
        epoch = self.progress.epoch
        generator, discriminator = self.checkpoints.exported.update(epoch)
        recalibrate_batch_norm(generator, self.loader.first_batches(epoch, RECALIBRATION_BATCHES))
        self.checkpoints.export((generator, discriminator))


def _describe_full_disk(loop, error):
    """Save the state if that is still possible, and return the message for the user."""
    path = loop.checkpoints.state_path
    with contextlib.suppress(OSError):
        loop.checkpoints.save_state(loop.model)
    batches = read_state(path)["batches"]
    return (
        f"{os.strerror(error.errno)}: {loop.checkpoints.folder}; {path} holds batch {batches}\n"
        f"make room, and continue with --resume {path}"
    )
