"""The training step: which loss teaches which network (K R et al., ACM MM 2019, section 4)."""

import keras
from keras import ops

from lipgan.faces.landmarks import mouth_slices
from lipgan.models.warp import LIPS_UNIT, InnerMouth, freeze_audio_to_lips, renderer_of


class TrainingStep(keras.Model):
    """The generator, and with it the discriminator where there is one, as one model that `fit()` trains.

    x: the generator's inputs by name, as `loader.as_inputs` makes them, and "wrong_mel". y: (B, S, S, 3).
    Images are float32 in [0, 1], or uint8, which are scaled here, on the device. Of the flagship only the renderer is
    trained here, with the true lips x["target_lips"] (B, 40); `audio_to_lips` has learned before and is frozen.
    The losses are K R et al. 2019's, section 4; they have the same names in the bar, in stats.jsonl and in the docs.
    """

    def __init__(self, generator, discriminator=None, adversarial_weight=0.01, mouth=None, num_replicas=1):
        """mouth: a MouthLoss, or None for the paper's losses alone."""
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.adversarial_weight, self.num_replicas = adversarial_weight, num_replicas
        self._mouth = mouth
        names = ["mae", *(mouth.names if mouth else [])]
        self._renderer = renderer_of(generator)
        if self._renderer:
            freeze_audio_to_lips(generator)
            names += RendererLoss.names
            self._renderer_loss = RendererLoss(self._renderer.output_shape[0][1])
        names += ["adversarial", "disc_real", "disc_wrong", "disc_fake"] if discriminator else []
        self.means = {name: keras.metrics.Mean(name) for name in names}
        self.built = True  # both networks come with their variables: weights can be loaded before the first batch

    def call(self, x, training=None):
        """Generate faces (B, S, S, 3); of the flagship the renderer's three outputs, for the true lips."""
        if self._renderer:
            return self._renderer([to_unit(x["face"]), x["reference_lips"], x["target_lips"]], training=training)
        return self.generator([to_unit(x["face"]), x["mel"]], training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        losses, total, y = {}, 0.0, to_unit(y)
        if self._renderer:
            y_pred, _, overlay = y_pred
            losses |= self._renderer_loss(y, y_pred, overlay, x["target_lips"])
            total += sum(RendererLoss.weights[name] * loss for name, loss in losses.items())
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
        # The discriminator learns from its own pass, in which the generated face is only an image ...
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


def to_unit(images):
    """Scale uint8 images to float32 in [0, 1]; float32 ones already are."""
    if keras.backend.standardize_dtype(images.dtype) != "uint8":
        return images
    return ops.cast(images, "float32") / 255.0


def in_sync_loss(distance):
    """Compute the contrastive loss of matching pairs: the mean of d^2."""
    return ops.mean(ops.square(distance))


def out_of_sync_loss(distance):
    """Compute the contrastive loss of mismatched pairs, with margin 1: the mean of max(0, 1 - d)^2."""
    return ops.mean(ops.square(ops.relu(1.0 - distance)))


def recalibrate_batch_norm(generator, batches):
    """Set batch norm's statistics to their mean over these batches of `as_inputs` or `as_bytes`, in place.

    With momentum 0.8 they are those of the last few batches, which adds noise to the results: recalibration lowers the
    validation error by a tenth (GRID, batches of 16). For the exported weights at the end of a run.
    """
    norms = [layer for layer in generator.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for number, (x, _) in enumerate(batches if norms else ()):
        for layer in norms:
            layer.momentum = number / (number + 1)  # so that the moving average is a plain one
        generator([to_unit(ops.convert_to_tensor(x["face"])), ops.convert_to_tensor(x["mel"])], training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


class RendererLoss:
    """Losses of the flagship's renderer beside `mae`: the mouth, its edges, and the paint inside it."""

    weights = {"mouth_l1": 1.0, "mouth_edges": 0.3, "paint": 5.0}  # noqa: RUF012 (a constant)
    names = tuple(weights)

    def __init__(self, img_size):
        self._rows, self._columns = mouth_slices(img_size)
        self._inner_mouth = InnerMouth(img_size, overlay=True)
        self._half = img_size // 2

    def __call__(self, truth, generated, overlay, lips):
        """Compute the losses by name. truth, generated: (B, S, S, 3). overlay: (B, S/2, S, 4). lips: (B, 40)."""
        truth_mouth, mouth = (faces[:, self._rows, self._columns] for faces in (truth, generated))
        # The paint learns where nothing of it is shown yet, too: else it would never be worth showing.
        inside = self._inner_mouth(lips)[:, self._half :]
        paint_error = ops.mean(ops.abs(overlay[..., :3] - truth[:, self._half :]), axis=-1, keepdims=True)
        return {
            "mouth_l1": ops.mean(ops.abs(truth_mouth - mouth)),
            "mouth_edges": ops.mean(ops.abs(_laplacian(truth_mouth) - _laplacian(mouth))),
            "paint": ops.mean(inside * paint_error),
        }


def _laplacian(images):
    """Compute the discrete Laplacian of images (B, H, W, C), without their borders."""
    middle = images[:, 1:-1, 1:-1]
    return 4 * middle - images[:, :-2, 1:-1] - images[:, 2:, 1:-1] - images[:, 1:-1, :-2] - images[:, 1:-1, 2:]


class MouthLoss:
    """Two more losses of a generated crop: `mouth_mae` of the mouth region, and `landmarks` of the lips.

    The expert is not a tracked layer of the trained model, so it stays frozen.
    """

    def __init__(self, expert, img_size, mouth_weight, landmark_weight):
        self.weights = {"mouth_mae": mouth_weight, "landmarks": landmark_weight}
        self.names = [name for name, weight in self.weights.items() if weight]
        self._expert = expert
        self._rows, self._columns = mouth_slices(img_size)

    def __call__(self, truth, generated):
        """Compute the losses of crops (B, S, S, 3) float32 in [0, 1] by name; landmarks are in LIPS_UNIT."""
        losses = {}
        if self.weights["mouth_mae"]:
            error = ops.abs(truth - generated)
            losses["mouth_mae"] = ops.mean(error[:, self._rows, self._columns])
        if self.weights["landmarks"]:
            lips, true_lips = (self._expert(faces, training=False) for faces in (generated, truth))
            losses["landmarks"] = ops.mean(ops.abs(true_lips - lips)) / LIPS_UNIT
        return losses
