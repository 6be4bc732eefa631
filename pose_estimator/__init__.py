"""6-DoF poses of known rigid objects from one colour camera."""

import os

__version__ = '0.1.0'

# Else torch's threads spin for milliseconds after each of their tasks, on cores that OpenVINO, or
# another node, needs (docs/experiments.md). It counts if it is said before torch is imported.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
