"""Train the generator together with the discriminator that judges whether mouth and sound agree.

python train.py --data_root lrs2_preprocessed --resume_gen logs/unet/unet.weights.h5 --logdir logs/gan
"""

import argparse

from lipgan.models import backend
from lipgan.training import config
from lipgan.training.config import parse_with_state
from lipgan.utils.cli import script


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config.add_training_args(parser, lr=1e-4, name="lipgan")
    parser.add_argument("--resume_gen", help="generator to start from: weights, a training state, or a legacy .h5")
    parser.add_argument("--resume_disc", help="discriminator to start from: weights, or a legacy .h5")
    return parse_with_state(parser, argv)


@script
def main(argv=None):
    args = parse_args(argv)
    backend.set_backend(args.backend, default="tensorflow")
    joined = config.find_machines(args.coordinator, args.num_processes, args.process_id)
    from lipgan.training import loop

    return loop.train(with_discriminator=True, joined=joined, **vars(args))


if __name__ == "__main__":
    raise SystemExit(main())
