"""The training step: which loss teaches which network (K R et al., ACM MM 2019, section 4)."""

import keras
from keras import ops

from lipgan.faces.landmarks import MOUTH
from lipgan.models.warp import LIPS, LIPS_UNIT, has_lips, listener, painter


class TrainingStep(keras.Model):
    """The generator, and with it the discriminator where there is one, as one model that `fit()` trains.

    x: {"face": (B, S, S, 6), "mel": (B, 80, 27, 1), "wrong_mel": the same}; y: (B, S, S, 3). Pictures are float32 in
    [0, 1], or uint8, which are scaled here, on the device. For a generator that goes through lips, x also has
    "reference_lips" and "target_lips": (B, 40).
    The losses are K R et al. 2019's, section 4; they keep their names in the bar, in stats.jsonl and in the README.
    """

    def __init__(self, generator, discriminator=None, adversarial_weight=0.01, mouth=None, num_replicas=1):
        """mouth: a `mouth.MouthLoss`, or None for the paper's losses alone."""
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.adversarial_weight, self.num_replicas = adversarial_weight, num_replicas
        self._mouth = mouth
        names = ["mae", *(mouth.names if mouth else [])]
        self._listener = self._painter = None
        if has_lips(generator):
            names.append(LIPS)
            self._listener, self._painter = listener(generator), painter(generator)
        names += ["adversarial", "disc_real", "disc_wrong", "disc_fake"] if discriminator else []
        self.means = {name: keras.metrics.Mean(name) for name in names}
        self.built = True  # both networks come with their variables: weights can be loaded before the first batch

    def call(self, x, training=None):
        """The face; of a generator with a listener, only the lips (B, 40): its painter waits for the true ones."""
        if self._listener:
            return self._listener([x["mel"], x["reference_lips"]], training=training)
        return self.generator([unit(x["face"]), x["mel"]], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        losses, total, y = {}, 0.0, unit(y)
        if self._listener:  # one learns what lips a sound has, the other to paint a face with given lips
            losses[LIPS] = ops.mean(ops.abs(x["target_lips"] - y_pred)) / LIPS_UNIT
            total += losses[LIPS]
            y_pred = self._painter([unit(x["face"]), x["reference_lips"], x["target_lips"]], training=training)
        losses["mae"] = ops.mean(ops.abs(y - y_pred))
        total += losses["mae"]
        if self._mouth:
            mouth_losses = self._mouth(y, y_pred)
            total += sum(self._mouth.weights[name] * loss for name, loss in mouth_losses.items())
            losses |= mouth_losses
        if self.discriminator:
            gan_losses = self._gan_losses(x, y, y_pred, training)
            total += self.adversarial_weight * gan_losses["adversarial"]
            total += gan_losses["disc_real"] + 0.5 * (gan_losses["disc_wrong"] + gan_losses["disc_fake"])
            losses |= gan_losses
        for name, loss in losses.items():
            self.means[name].update_state(loss)
        return total / self.num_replicas  # gradients are summed over replicas

    def _gan_losses(self, x, real, fake, training):
        # The discriminator learns from its own pass, in which the generated face is only a picture ...
        faces = ops.concatenate([real, real, ops.stop_gradient(fake)])
        mels = ops.concatenate([x["mel"], x["wrong_mel"], x["mel"]])
        d_real, d_wrong, d_fake = ops.split(self.discriminator([faces, mels], training=training), 3)
        # ... and the generator from a pass through the same discriminator, in which that is only a judge.
        frozen = [ops.stop_gradient(variable.value) for variable in self.discriminator.trainable_variables]
        fixed = [variable.value for variable in self.discriminator.non_trainable_variables]
        d_generator, _ = self.discriminator.stateless_call(frozen, fixed, [fake, x["mel"]], training=training)
        return {
            "adversarial": in_sync_loss(d_generator),
            "disc_real": in_sync_loss(d_real),
            "disc_wrong": out_of_sync_loss(d_wrong),
            "disc_fake": out_of_sync_loss(d_fake),
        }


def unit(pictures):
    """Pictures as float32 in [0, 1]: uint8 ones are scaled, others are so already."""
    if keras.backend.standardize_dtype(pictures.dtype) != "uint8":
        return pictures
    return ops.cast(pictures, "float32") / 255.0


def in_sync_loss(distance):
    """Contrastive loss of pairs that belong together: the mean of d^2."""
    return ops.mean(ops.square(distance))


def out_of_sync_loss(distance):
    """Contrastive loss of pairs that do not, with margin 1: the mean of max(0, 1 - d)^2."""
    return ops.mean(ops.square(ops.relu(1.0 - distance)))


def settle_statistics(generator, batches):
    """Set batch norm's statistics to their mean over these batches of `as_inputs` or `as_bytes`, in place.

    With momentum 0.8 they are those of the last handful of batches, and a result made with them is noisier than it need
    be: on GRID, at batches of 16, the error of validation falls by a tenth. For the users' weights at the end of a run.
    """
    norms = [layer for layer in generator.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for number, (x, _) in enumerate(batches):
        for layer in norms:
            layer.momentum = number / (number + 1)  # so that the moving average is a plain one
        generator([unit(ops.convert_to_tensor(x["face"])), ops.convert_to_tensor(x["mel"])], training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


class MouthLoss:
    """Two more losses of a generated crop: `mouth_mae` over the mouth alone, and `landmarks`, the lips' error.

    The expert is called, but is no part of the model that is trained: it stays as it is.
    """

    def __init__(self, expert, img_size, mouth_weight, landmark_weight):
        self.weights = {"mouth_mae": mouth_weight, "landmarks": landmark_weight}
        self.names = [name for name, weight in self.weights.items() if weight]
        self._expert = expert
        self._rows, self._columns = (
            slice(round(begin * img_size), round(end * img_size)) for begin, end in (MOUTH[:2], MOUTH[2:])
        )

    def __call__(self, truth, generated):
        """Crops (B, S, S, 3) float32 in [0, 1]. Returns the losses by name; landmarks are in LIPS_UNIT."""
        losses = {}
        if self.weights["mouth_mae"]:
            error = ops.abs(truth - generated)
            losses["mouth_mae"] = ops.mean(error[:, self._rows, self._columns])
        if self.weights["landmarks"]:
            seen = self._expert(generated, training=False)
            losses["landmarks"] = ops.mean(ops.abs(self._expert(truth, training=False) - seen)) / LIPS_UNIT
        return losses
