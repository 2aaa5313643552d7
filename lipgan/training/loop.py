"""What train_unet.py and train.py share: the networks to start from, the data, the step, and the loop."""

import contextlib
import errno
import os
import pathlib
import signal
import sys
import zlib

import keras

from audio_hparams import hparams
from discriminator import build_discriminator
from generator import WARPING, build_generator
from lipgan.data.clip_folder import read_settings, setting_differences
from lipgan.data.dataset import FaceDataset
from lipgan.data.filelists import find_clips
from lipgan.data.index import open_index
from lipgan.data.lip_landmarks import read_landmarks
from lipgan.models import backend
from lipgan.models.checkpoint import ENDING, load_discriminator, load_generator
from lipgan.models.warp import EXPERT, build_expert
from lipgan.training import devices
from lipgan.training.callbacks import Checkpoints, EpochReport, KeepsMemory, Progress, Stopped
from lipgan.training.config import STATE_NAME, read_state
from lipgan.training.lip_expert import prepare_expert, pretrain_audio_encoder
from lipgan.training.loader import Feed
from lipgan.training.losses import MouthLoss, TrainingStep, settle_statistics
from lipgan.training.machines import ALONE
from lipgan.training.optimizer import UsersNetworks, build_optimizer, learning_rate
from lipgan.training.run_dir import open_folder, write_record
from lipgan.utils.cli import UserError

SETTLING_BATCHES = 120  # over which batch norm's statistics are taken for the users' weights
RESUME_ME = 75  # exit status of a run that was stopped and can be resumed (EX_TEMPFAIL)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
EPOCHS = 100  # where neither --epochs nor --steps says how many


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


def read_datasets(data_root, filelists, img_size, leave_out=None, with_lips=False, **sampling):
    """The training and the validation samples (None where there are none), with a line for all that is left out."""
    differences = setting_differences(read_settings(data_root), img_size=img_size)
    if differences:
        raise UserError(f"{data_root} was made otherwise ({'; '.join(differences)}); preprocess it again")
    datasets, index = [], open_index(data_root)
    lists = {split: find_clips(data_root, split, filelists, index, leave_out) for split in ("train", "val")}
    landmarks = read_landmarks(index) if with_lips else None
    for split, (clips, notes) in lists.items():
        print("\n".join(notes), end="\n" if notes else "")
        if split == "val" and not clips:
            print("WARNING: no clip of val.txt is there: nothing is validated")
            datasets.append(None)
            continue
        dataset = FaceDataset(
            clips, img_size, index=index, landmarks=landmarks, **(sampling if split == "train" else {})
        )
        skipped = "".join(f"; {count} left out: {reason}" for reason, count in dataset.skipped.items())
        print(f"{split}: {len(dataset.clips)} clips, {len(dataset)} frames{skipped}", flush=True)
        datasets.append(dataset)
    return datasets


def expert_path(dataset, data_root):
    """Where the mouth expert of these training clips is kept: other clips have another one."""
    names = "\n".join("/".join(clip.folder.parts[-2:]) for clip in dataset.clips)
    return pathlib.Path(data_root) / f"lips_expert_{dataset.img_size}_{zlib.crc32(names.encode()):08x}{ENDING}"


def _mouth_expert(generator, dataset, data_root, anew):
    """The mouth expert of these training clips, kept in data_root.

    A generator that holds an expert keeps its own, so that a resumed run is judged as before; one that is made anew
    takes this one over.
    """
    own = next((layer for layer in generator.layers if layer.name == EXPERT), None)
    if own and not anew:
        return own
    expert = prepare_expert(dataset, expert_path(dataset, data_root))
    if own:
        own.set_weights(expert.get_weights())
    return expert


def train(*, n_gpu=1, joined=ALONE, **chosen):
    """Train as the options of the same names say, and return the exit status: 0, or 75 when stopped and resumable.

    joined: the processes that train together.
    """
    with devices.placed(n_gpu, joined) as placement:
        return _train(placement, n_gpu=n_gpu, **chosen)


def _train(placement, *, with_discriminator, data_root, filelists, logdir, model, width, img_size, checkpoint_name,
           checkpoint_freq, epochs, steps, steps_per_epoch, batch_size, lr, warmup_steps, lr_decay_steps, precision,
           accumulate, ema, mouth_weight, landmark_weight, pretrain_audio, balance, augment, workers, val_samples, seed,
           leave_out=None, resume=None, resume_gen=None, resume_disc=None, **recorded):  # fmt: skip
    values = {k: v for k, v in locals().items() if k not in ("recorded", "placement")} | recorded
    if recorded.get("all_images"):
        print("--all_images is ignored: folders are indexed anew")
    gpu = placement.found.kind != "CPU"
    batch_size = batch_size or (96 if gpu else 16)
    devices.check_batch_size(batch_size, placement.num_devices)
    precision = precision or ("mixed_bfloat16" if backend.has_bfloat16(placement.found.kind) else "float32")
    values |= {"batch_size": batch_size, "precision": precision}
    if lr_decay_steps and (warmup_steps or 0) >= lr_decay_steps:
        raise UserError(f"--warmup_steps {warmup_steps} leaves nothing of --lr_decay_steps {lr_decay_steps}; lower it")
    print(f"{keras.backend.backend()} on {placement.described}, {precision}, batches of {batch_size}")
    anew = not (resume or resume_gen)
    with placement.first_alone():  # the index is made once
        with_lips = model in WARPING or bool(pretrain_audio and anew)
        sampling = {"with_lips": with_lips, "balance": balance, "augment": augment}
        train_set, val_set = read_datasets(data_root, filelists, img_size, leave_out, **sampling)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(precision)
    wanted = (model, img_size, width)
    generator, discriminator, state = _start(wanted, resume, resume_gen, resume_disc, with_discriminator)
    keeps = {"accumulate": accumulate, "averages": ema is not None, "scales": precision == "mixed_float16"}
    _check_optimizer(state, keeps)
    wants_expert = model in WARPING or landmark_weight
    expert = None
    if wants_expert:
        expert = _mouth_expert(generator, train_set, data_root, anew) if placement.leads else build_expert(img_size)
    if pretrain_audio and anew and placement.leads:
        pretrain_audio_encoder(generator, train_set, val_set, pretrain_audio, seed)
    networks = generator, discriminator  # on one device, in which they are validated and saved
    generator = placement.spread(generator, lambda: build_generator(*wanted, synchronized=True))
    discriminator = placement.spread(discriminator, lambda: build_discriminator(img_size, width))
    mouth_loss = None
    if mouth_weight or landmark_weight:
        judge = placement.spread(expert, lambda: build_expert(img_size))
        mouth_loss = MouthLoss(judge, img_size, mouth_weight, landmark_weight)
    if ema is not None and networks[0] is generator:  # averages go into networks that are not trained
        networks = build_generator(*wanted), build_discriminator(img_size, width) if discriminator else None
    rate = learning_rate(lr, warmup_steps, lr_decay_steps)
    with placement.building():
        step = TrainingStep(generator, discriminator, mouth=mouth_loss, num_replicas=placement.num_replicas)
        step.compile(optimizer=build_optimizer(rate, accumulate, ema))
        step.optimizer.build(step.trainable_variables)  # unbuilt, its state would not be loaded, without a word
        if state:
            step.load_weights(state["path"])

    settings = read_settings(data_root)
    described = {"model": model, "img_size": img_size, "width": width, "with_discriminator": with_discriminator}
    described |= {"hparams": hparams.as_dict(), "sync_offset_ms": 0, "seed": seed, "options": values} | keeps
    described |= {name: settings[name] for name in ("detector", "pads") if name in settings}
    folder = pathlib.Path(logdir)
    if placement.leads:
        folder = open_folder(logdir, state)
        write_record(folder, values, state)
    print(f"run folder: {folder}", flush=True)
    per_epoch = min(train_set.num_batches(batch_size), steps_per_epoch or sys.maxsize)
    steps = min(steps or sys.maxsize, per_epoch * (epochs or (sys.maxsize if steps else EPOCHS)))
    feed = Feed(train_set, batch_size, seed, workers, per_epoch, placement.part(batch_size))
    users = UsersNetworks(step, networks, placement, feed.few)
    name = checkpoint_name.removesuffix(".h5").removesuffix(".weights")
    checkpoints = Checkpoints(folder, name, described, checkpoint_freq, users, state, placement)
    position = checkpoints.position
    report = EpochReport(folder, val_set, batch_size, val_samples, users, position, rate, placement.leads)
    callbacks = [checkpoints, report, Progress(position, steps), KeepsMemory()]
    checkpoints.set_model(step)
    if not state and placement.leads:
        with devices.alone():
            checkpoints.save_state()
    return _run(step, feed, checkpoints, users, callbacks, steps)


def _check_optimizer(state, keeps):
    """Raise UserError where the state's optimizer keeps other numbers than this one: Keras would load none of them."""
    for name, value in keeps.items():
        before = (state or {}).get(name, value)
        if before != value:
            option = {"accumulate": f"--accumulate {before}", "averages": "--ema" if before else "no --ema"}
            wanted = option.get(name, f"--precision {state.get('options', {}).get('precision')}")
            raise UserError(f"{state['path']} is of a run with {wanted}; give that, or start from its weights")


def _full_disk(checkpoints, error):
    """Save the state where that still goes, tell what happened, and return the exit status."""
    with contextlib.suppress(OSError):
        checkpoints.save_state()
    path = checkpoints.folder / STATE_NAME
    state = read_state(path)
    print(f"{os.strerror(error.errno)}: {checkpoints.folder}; {path} is of batch {state['batches']} in all")
    print(f"make room, and go on with --resume {path}")
    return RESUME_ME


def _run(step, feed, checkpoints, users, callbacks, steps):
    """Train until batch `steps`, and write the last weights for users. Returns the exit status."""
    try:
        with _signals(checkpoints), checkpoints.placement.fitting():
            _loop(step, feed, checkpoints, callbacks, steps)
        if not checkpoints.placement.leads:
            return 0
        # The state keeps the statistics as they are, so that it can be resumed exactly.
        generator, discriminator = users(checkpoints.position["epoch"])
        settle_statistics(generator, feed.few(checkpoints.position["epoch"], SETTLING_BATCHES))
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
