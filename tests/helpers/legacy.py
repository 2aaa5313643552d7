"""LipGAN's original networks in Keras 2, rebuilt from their tables of layers."""

from generator import scaled


def legacy_generator(tf_keras, kind, width):
    """Build the original generator of a kind as a tf_keras.Model."""
    layers = tf_keras.layers

    def conv(x, filters, kernel=3, strides=1, padding="same"):
        x = layers.Conv2D(scaled(filters, width), kernel, strides=strides, padding=padding)(x)
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.8)(x))

    def up(x, filters, strides=2):
        x = layers.Conv2DTranspose(scaled(filters, width), 3, strides=strides, padding="same")(x)
        return layers.Activation("relu")(layers.BatchNormalization(momentum=0.8)(x))

    def res(x, filters, blocks):
        for _ in range(blocks):
            if kind == "residual":
                x = layers.Activation("relu")(layers.Add()([conv(conv(x, filters), filters), x]))
        return x

    def audio_block(x, filters, strides):
        x = conv(x, filters, strides=strides)
        return res(x, filters, 2) if kind == "residual" else conv(conv(x, filters), filters)

    first, second, third, last = (7, 5, 3, 512) if kind == "residual" else (11, 7, 5, 256)
    face = layers.Input((96, 96, 6))
    f0 = conv(face, 32, first)
    f1 = res(conv(f0, 64, second, 2), 64, 2)
    f2 = res(conv(f1, 128, third, 2), 128, 3)
    f3 = res(conv(f2, 256, 3, 2), 256, 2)
    f4 = res(conv(f3, 512, 3, 2), 512, 2)
    f5 = conv(f4, 512, 3, 2)
    f7 = conv(conv(f5, 512, 3, 1, "valid"), last, 1)

    mel = layers.Input((80, 27, 1))
    a = audio_block(audio_block(audio_block(audio_block(mel, 32, 1), 64, 3), 128, (3, 1)), 256, 3)
    a = conv(conv(a, 512, padding="valid"), 512, 1)

    x = layers.concatenate([f5, up(layers.concatenate([f7, a]), 512, 3)])
    for skip, filters in ((f4, 512), (f3, 256), (f2, 128), (f1, 64)):
        x = layers.concatenate([skip, res(up(x, filters), filters, 2)])
    x = conv(conv(layers.concatenate([f0, up(x, 32)]), 16), 16)
    x = layers.Activation("sigmoid")(layers.Conv2D(3, 1)(x))
    return tf_keras.Model([face, mel], x)


def legacy_discriminator(tf_keras, width):
    """Build the original discriminator as a tf_keras.Model."""
    layers, backend = tf_keras.layers, tf_keras.backend

    class SampleNorm(layers.Layer):
        def build(self, input_shape):
            self.gain = self.add_weight(name="gain", shape=(1,), initializer="ones")
            self.offset = self.add_weight(name="bias", shape=(1,), initializer="zeros")

        def call(self, x):
            mean, std = (f(x, axis=[1, 2, 3], keepdims=True) for f in (backend.mean, backend.std))
            return self.gain * (x - mean) / (std + 1e-3) + self.offset

    def dconv(x, filters, kernel=3, strides=1, padding="same"):
        x = layers.Conv2D(scaled(filters, width), kernel, strides=strides, padding=padding)(x)
        return layers.LeakyReLU(0.2)(SampleNorm()(x))

    def distance(pair):
        import tf_keras  # a full model file holds this function's code, and no module can be in it

        squares = tf_keras.backend.square(pair[0] - pair[1])
        return tf_keras.backend.sqrt(tf_keras.backend.sum(squares, axis=1, keepdims=True) + 1e-12)

    def unit(x):
        return layers.Lambda(backend.l2_normalize, arguments={"axis": 1})(layers.Flatten()(x))

    face = layers.Input((96, 96, 3))
    f = dconv(dconv(dconv(face, 64, 7, 2), 128, 5, 2), 256, 3, 2)
    f = layers.Conv2D(scaled(512, width), 3)(dconv(dconv(f, 512, 3, 2), 512, 3, 2))
    mel = layers.Input((80, 27, 1))
    a = dconv(dconv(dconv(dconv(mel, 32), 64, 3, 3), 128, 3, (3, 1)), 256, 3, 3)
    a = dconv(dconv(a, 512, 3, 1, "valid"), 512, 1)
    return tf_keras.Model([face, mel], layers.Lambda(distance)([unit(f), unit(a)]))
