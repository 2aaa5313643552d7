"""Train the generator alone, with the L1 loss.

    python train_unet.py --data_root lrs2_preprocessed --logdir logs/unet

The result, logs/unet/unet.weights.h5, is the starting point of train.py (--resume_gen).
"""

from lipgan.models import backend
from lipgan.training.config import parse_config
from lipgan.utils.cli import script


def parse_args(argv=None):
    """Parse the command line into a TrainConfig."""
    return parse_config(argv, description=__doc__, with_discriminator=False, lr=1e-3, checkpoint_name="unet")


@script
def main(argv=None):
    """Train, and return an exit status: 0, 1 on a user error, 75 when stopped by a signal and resumable."""
    config = parse_args(argv)
    backend.set_backend(config.backend, default="tensorflow")
    backend.import_keras()
    from lipgan.training.loop import train

    return train(config)


if __name__ == "__main__":
    raise SystemExit(main())
