"""Pretrain from the command line: ``python train.py --preset quickstart``; the same as ``egg train``."""

import sys

from egg.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:], prog="python train.py"))
