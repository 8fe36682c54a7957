"""Tests."""

from steer.kernels import use_shared_instructions

# Before torch is imported, so that what is trained here is what the command line trains.
use_shared_instructions()
