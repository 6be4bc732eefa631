"""6-DoF poses of known rigid objects from one colour camera."""

__version__ = '0.1.0'
