"""Stand-ins for a GeneratorRunner."""


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
