"""Train and test one recipe: ``python train.py --model local_aug_gcn``; ``--list`` shows them all."""

import sys

from zoo.recipes import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
