"""One thread for torch, here and in processes that tests start: tests are many small ops, and may run beside each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
