"""Decoding: all output streams in one forward pass per row, with a cache that holds spoken cells only."""

from pipeline.decoding.decoder import Decoder
from pipeline.decoding.generate import generate
from pipeline.decoding.sampling import Sampling

__all__ = ["Decoder", "Sampling", "generate"]
