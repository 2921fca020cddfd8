"""One thread per test process: several that each use every core slow each other down, and a fork of one may hang."""

import os

# Before anything imports torch, which reads them once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
