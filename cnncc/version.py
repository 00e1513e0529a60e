"""The version, in the one place that the build, the cache keys and `cnncc --version` read it from."""

__version__ = "0.1.0"
