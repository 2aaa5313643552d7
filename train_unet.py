"""Train the generator alone, with the L1 loss.

    python train_unet.py --data_root lrs2_preprocessed --logdir logs/unet

The result, logs/unet/unet.weights.h5, is what train.py starts from (--resume_gen).
"""

import argparse

from lipgan.models import backend
from lipgan.training import config
from lipgan.training.config import parse_with_state
from lipgan.utils.cli import script


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config.add_training_args(parser, lr=1e-3, name="unet")
    return parse_with_state(parser, argv)


@script
def main(argv=None):
    args = parse_args(argv)
    backend.set_backend(args.backend, default="tensorflow")
    joined = config.find_machines(args.coordinator, args.num_processes, args.process_id)
    from lipgan.training import loop

    return loop.train(with_discriminator=False, joined=joined, **vars(args))


if __name__ == "__main__":
    raise SystemExit(main())
