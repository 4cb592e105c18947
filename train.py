"""Pretrain from the command line: ``python train.py --preset quickstart``; the same as ``egg train``."""

import sys

from egg.cli.start import main

if __name__ == "__main__":
    sys.exit(main("train", "python train.py"))
