"""The optimizer: how fast it learns, how many batches make an update, and the averaged weights that users get."""

import keras
from keras import ops

from lipgan.training.losses import recalibrate_batch_norm


class AveragingAdam(keras.optimizers.Adam):
    """Adam that can keep an average of the weights beside the weights (`use_ema`), and leaves both alone.

    Keras' own puts the average in the weights' place whenever `fit()` ends, and remembers the first weights for a
    thousand updates. Here the average looks back over the last tenth of the updates at most, and over 1 / (1 - the
    momentum asked for).
    """

    @property
    def ema_momentum(self):
        """The share of the average that stays at a batch."""
        updates = ops.cast(self.iterations, "float32")
        momentum = ops.minimum(self._largest_momentum, (1.0 + updates) / (10.0 + updates))
        return momentum ** (1.0 / (self.gradient_accumulation_steps or 1))

    @ema_momentum.setter
    def ema_momentum(self, value):
        self._largest_momentum = value

    def finalize_variable_values(self, var_list):
        """Nothing: called at the end of every `fit()`, and there is one an epoch."""

    def averages(self):
        """[(trainable variable, its average), ...]; empty where none are kept."""
        if not self.use_ema:
            return []
        return list(zip(self._trainable_variables, self._model_variables_moving_average, strict=True))


def build_optimizer(rate, accumulate=1, ema=None):
    """The optimizer of one or both networks (Adam works on each parameter by itself, so one is as good as two).

    rate: of `learning_rate`. accumulate: batches whose mean gradient makes an update. ema: the average's momentum, an
    update; None for no average.
    """
    return AveragingAdam(
        rate,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        use_ema=ema is not None,
        ema_momentum=ema or 0.0,
    )


def learning_rate(lr, warmup_steps=None, decay_steps=None):
    """A schedule that rises to `lr` over the first `warmup_steps` batches, and falls to 0 along a cosine.

    It is at 0 at batch `decay_steps`; None: it stays at `lr`. (A plain number would be part of the state, and --lr not
    count on resuming.)
    """
    warmup, decay = warmup_steps or 0, decay_steps
    schedules, first = keras.optimizers.schedules, lr / max(warmup, 1)
    if decay is None:
        return schedules.PolynomialDecay(first, max(warmup, 1), lr)  # a straight line up to lr
    if not warmup:
        return schedules.CosineDecay(lr, decay)
    return schedules.CosineDecay(first, decay - warmup, warmup_target=lr, warmup_steps=warmup)


class UsersNetworks:
    """The networks of a `TrainingStep` as users get them, on one device: as they are, or with averaged weights."""

    def __init__(self, step, networks, placement, batches):
        """networks: (generator, discriminator or None) on one device, of the step's architecture; where averages are
        kept not the step's own. batches: (epoch, count) -> batches of `as_bytes`, for batch norm's statistics."""
        self.step, self.networks, self.placement, self.batches = step, networks, placement, batches

    def __call__(self, epoch, count=30):
        """(generator, discriminator or None) as of now.

        An average knows nothing of batch norm's statistics: they are taken anew, from `count` batches of the epoch.
        """
        originals = self.step.generator, self.step.discriminator
        optimizer = getattr(self.step.optimizer, "inner_optimizer", self.step.optimizer)  # float16's losses are scaled
        average_of = {id(variable): average for variable, average in optimizer.averages()}
        if not average_of:
            self.placement.gather(self.networks, originals)
            return self.networks
        for network, original in zip(self.networks, originals, strict=True):
            for mine, its in zip(network.variables, original.variables, strict=True) if network else ():
                mine.assign(ops.convert_to_numpy(average_of.get(id(its), its)))
        recalibrate_batch_norm(self.networks[0], self.batches(epoch, count))
        return self.networks
