"""Re-measure a paper's claim: ``python reproduce.py local_augmentation``; without a paper it lists them all."""

import sys

from zoo.reproduce import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
