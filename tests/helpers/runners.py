"""Stand-ins for a GeneratorRunner."""

import numpy as np

LOWER = [7, 8, 9, 10, 11, 17, 18, 19]  # of the 20 lip landmarks


class FunctionRunner:
    """Runs a function of (faces (N, S, S, 6), audio (N, 80, 27, 1)) in a generator's place."""

    audio_kind, needs_lips, concurrency, name = "mel", False, 1, "a function"

    def __init__(self, function, img_size=16, batch_size=8):
        self.function, self.img_size, self.batch_size, self.info = function, img_size, batch_size, {}

    def reset(self, still=False):
        """As of GeneratorRunner."""
        return self

    def predict(self, faces, audio, lips=None, rest_lips=None):
        """As of GeneratorRunner."""
        return self.function(faces, audio)


class LipRunner(FunctionRunner):
    """Runs in the flagship's place: lips open by a constant."""

    needs_lips = True

    def __init__(self, opening=0.06, img_size=96, batch_size=8):
        super().__init__(None, img_size, batch_size)
        self.opening, self.rest_lips, self.motion_gains = opening, [], []

    def member_openings(self, features):
        """As of GeneratorRunner: two members that agree, and open and shut the mouth five times a second."""
        return np.tile(0.02 * np.sin(np.arange(len(features) // 2) * 2 * np.pi / 5)[:, None], 2)

    def predict_mouths(self, faces, audio, lips, rest_lips, motion_gains):
        """As of GeneratorRunner; keeps the rest_lips and gains that it is given."""
        self.rest_lips += list(rest_lips)
        self.motion_gains += list(motion_gains)
        motion = np.zeros((20, 2), np.float32)
        motion[LOWER, 1] = self.opening
        half, size = self.img_size // 2, self.img_size
        return rest_lips + motion_gains * motion.ravel(), np.zeros((len(lips), half, size, 2), np.float32)
