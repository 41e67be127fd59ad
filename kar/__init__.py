"""kar: offline knowledge augmentation for CTR models. Import `kar.release` to read what it publishes."""

__version__ = "0.1.0"
