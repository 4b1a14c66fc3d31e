"""Decoding: all output streams in one forward pass per row, with a cache that holds spoken cells only."""
