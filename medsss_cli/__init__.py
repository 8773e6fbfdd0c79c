"""medsss: a small language model reasons better about medicine, by its own search (MedS3, arXiv 2501.12051)."""

__version__ = "0.2.0"
