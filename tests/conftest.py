"""One thread for torch, here and in processes that tests start: tests are many small ops, and may run beside each other.

Ctrl-C means what it means on a terminal, also where tests run in the background of a shell that ignores it.
"""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)
