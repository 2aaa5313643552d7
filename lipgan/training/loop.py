"""What train_unet.py and train.py share: the networks to start from, the data, the step, and the loop."""

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
from lipgan.data.speech_features import read_closures, read_features
from lipgan.models import backend
from lipgan.models.checkpoint import ENDING, build_generator, load_discriminator, load_generator
from lipgan.training import devices
from lipgan.training.audio_to_lips import LipMotionConfig, train_audio_to_lips
from lipgan.training.callbacks import Checkpoints, EpochReport, KeepsMemory, Progress, Stopped
from lipgan.training.config import STATE_NAME, TrainConfig, read_state, state_architecture
from lipgan.training.lip_expert import build_expert, prepare_expert, pretrain_audio_encoder
from lipgan.training.loader import Feed
from lipgan.training.losses import MouthLoss, TrainingStep, recalibrate_batch_norm
from lipgan.training.machines import find_machines
from lipgan.training.optimizer import UsersNetworks, build_optimizer, learning_rate
from lipgan.training.run_dir import open_folder, write_record
from lipgan.utils.cli import UserError

SETTLING_BATCHES = 120  # over which batch norm's statistics are taken for the users' weights
VOICES = 8  # versions of each clip's speech that --augment keeps: its own and augmented ones
RESUME_ME = 75  # exit status of a run that was stopped and can be resumed (EX_TEMPFAIL)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EPOCHS = 100  # where neither --epochs nor --steps says how many


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
    if (found := state_architecture(state)) != config.architecture:
        raise UserError(
            f"{state['path']} is a state of {found}; give these options, or start from its weights with --resume_gen"
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
    """What decides which variables the optimizer keeps: Keras silently loads none of them where these differ."""
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


def _generator_of_state(state, wanted):
    """Load the generator of another run's training state."""
    found = state_architecture(state)
    if found.generator != wanted.generator:
        raise UserError(f"{state['path']} is a state of {found}, not of {wanted}; give the same architecture")
    generator = build_generator(*found.generator)
    discriminator = build_discriminator(*found.discriminator) if found.with_discriminator else None
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
        arrays |= {"speech": read_features(index, VOICES if config.augment else 1), "closures": read_closures(index)}
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
    """Where the mouth expert of these training clips is kept: other clips have another one."""
    names = "\n".join("/".join(clip.folder.parts[-2:]) for clip in dataset.clips)
    return pathlib.Path(data_root) / f"lips_expert_{dataset.img_size}_{zlib.crc32(names.encode()):08x}{ENDING}"


def _mouth_expert(config, datasets):
    """The mouth expert of these training clips, stored in data_root."""
    return prepare_expert(datasets.train, expert_path(datasets.train, config.data_root))


def _pretrain_audio(config, datasets, generator):
    pretrain_audio_encoder(generator, datasets.train, datasets.val, config.pretrain_audio, config.seed)


def _train_audio_to_lips(config, datasets, generator):
    settings = LipMotionConfig(steps=config.audio_steps, seed=config.seed)
    train_audio_to_lips(generator, datasets.train, datasets.val, settings, [KeepsMemory()])


def pretraining_stages(config):
    """The stages that teach parts of the generator before the main loop, in order.

    Each is a function (config, datasets, generator) -> None that changes the generator in place. They run once, in the
    main process, and only for a generator that starts from random weights.
    """
    stages = []
    if config.model == "warp":
        return [_train_audio_to_lips]
    if config.pretrain_audio:
        stages.append(_pretrain_audio)
    return stages


def train(config: TrainConfig) -> int:
    """Train as `config` says. Returns the exit status: 0, or 75 when stopped by a signal and resumable."""
    joined = find_machines(config.coordinator, config.num_processes, config.process_id)
    with devices.placed(config.n_gpu, joined) as placement:
        config = _fill_in_defaults(config, placement)
        print(f"{keras.backend.backend()} on {placement.described}, {config.precision}, batches of {config.batch_size}")
        with placement.first_alone():  # the main process writes the index and the lips that the others read
            datasets = read_datasets(config)
        keras.utils.set_random_seed(config.seed)
        keras.config.set_dtype_policy(config.precision)
        state = _read_resumed_state(config)
        networks = build_networks(config, state)
        expert = None
        if config.landmark_weight:
            expert = _mouth_expert(config, datasets) if placement.leads else build_expert(config.img_size)
        for stage in pretraining_stages(config) if config.starts_fresh and placement.leads else ():
            stage(config, datasets, networks.generator)
        step, exported = _build_step(config, placement, networks, expert, state)
        return _run(config, placement, datasets, step, exported, state)


def _fill_in_defaults(config, placement):
    """Choose batch size and precision by device where the user did not, and check what depends on the device."""
    batch_size = config.batch_size or (16 if placement.found.kind == "CPU" else 96)
    devices.check_batch_size(batch_size, placement.num_devices)
    supported = "mixed_bfloat16" if backend.has_bfloat16(placement.found.kind) else "float32"
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
    generator = placement.spread(
        networks.generator, lambda: build_generator(*architecture.generator, synchronized=True)
    )
    discriminator = placement.spread(networks.discriminator, lambda: build_discriminator(*architecture.discriminator))
    mouth_loss = None
    if config.mouth_weight or config.landmark_weight:
        judge = placement.spread(expert, lambda: build_expert(config.img_size))
        mouth_loss = MouthLoss(judge, config.img_size, config.mouth_weight, config.landmark_weight)
    exported = networks
    if config.ema is not None and networks.generator is generator:  # averages need networks that are not trained
        copy = build_discriminator(*architecture.discriminator) if discriminator else None
        exported = Networks(build_generator(*architecture.generator), copy)
    rate = learning_rate(config.lr, config.warmup_steps, config.lr_decay_steps)
    with placement.building():
        step = TrainingStep(generator, discriminator, mouth=mouth_loss, num_replicas=placement.num_replicas)
        step.compile(optimizer=build_optimizer(rate, config.accumulate, config.ema))
        step.optimizer.build(step.trainable_variables)  # Keras silently skips the state of an unbuilt optimizer
        if state:
            step.load_weights(state["path"])
    return step, exported


def _describe(config):
    """What state.weights.h5 and the JSON beside the exported weights say of the run."""
    settings = read_settings(config.data_root)
    description = dataclasses.asdict(config.architecture) | _optimizer_slots(config)
    description |= {"hparams": hparams.as_dict(), "sync_offset_ms": 0, "seed": config.seed, "options": config.as_dict()}
    return description | {name: settings[name] for name in ("detector", "pads") if name in settings}


def _run(config, placement, datasets, step, exported, state):
    """Open the run folder, train to the last batch, and write the final weights. Returns the exit status."""
    folder = pathlib.Path(config.logdir)
    if placement.leads:
        folder = open_folder(config.logdir, state)
        write_record(folder, config.as_dict(), state)
    print(f"run folder: {folder}", flush=True)
    per_epoch = min(datasets.train.num_batches(config.batch_size), config.steps_per_epoch or sys.maxsize)
    epochs = config.epochs or (sys.maxsize if config.steps else EPOCHS)
    steps = min(config.steps or sys.maxsize, per_epoch * epochs)
    part = placement.part(config.batch_size)
    feed = Feed(datasets.train, config.batch_size, config.seed, config.workers, per_epoch, part)
    users = UsersNetworks(step, (exported.generator, exported.discriminator), placement, feed.few)
    name = config.checkpoint_name.removesuffix(".h5").removesuffix(".weights")
    checkpoints = Checkpoints(folder, name, _describe(config), config.checkpoint_freq, users, state, placement)
    position = checkpoints.position
    rate = learning_rate(config.lr, config.warmup_steps, config.lr_decay_steps)
    report = EpochReport(
        folder, datasets.val, config.batch_size, config.val_samples, users, position, rate, placement.leads
    )
    callbacks = [checkpoints, report, Progress(position, steps), KeepsMemory()]
    checkpoints.set_model(step)
    if not state and placement.leads:
        with devices.alone():
            checkpoints.save_state()
    return _run_to_end(step, feed, checkpoints, users, callbacks, steps)


def _full_disk(checkpoints, error):
    """Save the state where that still goes, tell what happened, and return the exit status."""
    with contextlib.suppress(OSError):
        checkpoints.save_state()
    path = checkpoints.folder / STATE_NAME
    state = read_state(path)
    print(f"{os.strerror(error.errno)}: {checkpoints.folder}; {path} is of batch {state['batches']} in all")
    print(f"make room, and go on with --resume {path}")
    return RESUME_ME


def _run_to_end(step, feed, checkpoints, users, callbacks, steps):
    """Train until batch `steps`, and write the last weights for users. Returns the exit status."""
    try:
        with _signals(checkpoints), checkpoints.placement.fitting():
            _loop(step, feed, checkpoints, callbacks, steps)
        if not checkpoints.placement.leads:
            return 0
        # The state keeps the statistics as they are, so that it can be resumed exactly.
        generator, discriminator = users(checkpoints.position["epoch"])
        recalibrate_batch_norm(generator, feed.few(checkpoints.position["epoch"], SETTLING_BATCHES))
        checkpoints.save_for_users((generator, discriminator))
    except Stopped as e:
        print(e)
        return RESUME_ME
    except OSError as e:
        if e.errno not in FULL_DISK:
            raise
        return _full_disk(checkpoints, e)
    print(checkpoints.folder / f"{checkpoints.name}{ENDING}")
    return 0


def _loop(step, feed, checkpoints, callbacks, steps):
    """One `fit()` an epoch, so that an epoch can be taken up in its middle. Raises Stopped after a signal."""
    position = checkpoints.position
    for epoch in range(position["epoch"], -(-steps // feed.per_epoch)):
        begin, end = position["batch"], min(feed.per_epoch, steps - epoch * feed.per_epoch)
        if begin < end:
            batches = feed.part(epoch, begin, end)
            step.fit(batches, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, callbacks=callbacks, verbose=0)
        if end == feed.per_epoch:
            position |= {"epoch": epoch + 1, "batch": 0}
        checkpoints.save()
        if position["batches"] < steps:
            checkpoints.stop_if_asked()


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
