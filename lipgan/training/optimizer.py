"""The optimizer: learning-rate schedule, gradient accumulation, averaged weights (EMA) and their export."""

import keras
from keras import ops

from lipgan.training.losses import recalibrate_batch_norm


class AveragingAdam(keras.optimizers.Adam):
    """Adam with an exponential moving average of the weights (`use_ema`) that never overwrites the weights.

    Keras' own optimizer overwrites the weights with the average at the end of every `fit()`, and the initial weights
    stay in the average for a thousand updates. Here the momentum grows with the updates, so that the average covers at
    most the last tenth of them.
    """

    @property
    def ema_momentum(self):
        """Momentum of the moving average per batch."""
        updates = ops.cast(self.iterations, "float32")
        momentum = ops.minimum(self._largest_momentum, (1.0 + updates) / (10.0 + updates))
        return momentum ** (1.0 / (self.gradient_accumulation_steps or 1))

    @ema_momentum.setter
    def ema_momentum(self, value):
        self._largest_momentum = value

    def finalize_variable_values(self, var_list):
        """Do nothing; Keras calls this at the end of every `fit()`, which is every epoch."""

    def averages(self):
        """Return [(trainable variable, its average), ...]; empty without EMA."""
        if not self.use_ema:
            return []
        return list(zip(self._trainable_variables, self._model_variables_moving_average, strict=True))


def build_optimizer(rate, accumulate=1, ema=None):
    """Build the optimizer of one or both networks (Adam is per parameter, so one equals two).

    rate: from `learning_rate`. accumulate: batches per update, whose mean gradient it uses. ema: the average's momentum
    per update; None for no average.
    """
    return AveragingAdam(
        rate,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        use_ema=ema is not None,
        ema_momentum=ema or 0.0,
    )


def learning_rate(lr, warmup_steps=None, decay_steps=None):
    """Return a schedule: linear warm-up to `lr` over `warmup_steps` batches, then cosine decay to 0 at `decay_steps`.

    decay_steps None: constant after the warm-up. (Always a schedule: a plain number would be restored with the
    optimizer's state, and --lr ignored on resuming.)
    """
    warmup, decay = warmup_steps or 0, decay_steps
    schedules, first = keras.optimizers.schedules, lr / max(warmup, 1)
    if decay is None:
        return schedules.PolynomialDecay(first, max(warmup, 1), lr)  # a straight line up to lr
    if not warmup:
        return schedules.CosineDecay(lr, decay)
    return schedules.CosineDecay(first, decay - warmup, warmup_target=lr, warmup_steps=warmup)


class ExportedNetworks:
    """The networks of a TrainingStep as they are validated and exported: on one device, averaged if there is an EMA."""

    def __init__(self, step, networks, first_batches):
        """networks: (generator, discriminator or None) on one device: the step's own, or copies for averaged weights.

        first_batches: (epoch, count) -> batches of `as_bytes`, to recalibrate batch norm.
        """
        self._step, self._networks, self._first_batches = step, networks, first_batches

    def update(self, epoch, num_batches=30):
        """Return (generator, discriminator or None) with the current weights.

        The average does not cover batch norm's statistics: they are recalibrated on `num_batches` of the epoch.
        """
        originals = self._step.generator, self._step.discriminator
        optimizer = getattr(self._step.optimizer, "inner_optimizer", self._step.optimizer)  # float16's loss scaling
        average_of = {id(variable): average for variable, average in optimizer.averages()}
        for network, original in zip(self._networks, originals, strict=True):
            if average_of:
                for mine, its in zip(network.variables, original.variables, strict=True) if network else ():
                    mine.assign(ops.convert_to_numpy(average_of.get(id(its), its)))
            elif network is not original:
                network.set_weights(original.get_weights())
        if average_of:
            recalibrate_batch_norm(self._networks[0], self._first_batches(epoch, num_batches))
        return self._networks
