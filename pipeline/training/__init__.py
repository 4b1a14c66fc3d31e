"""Training on token grids: shards → cells and targets → packs → a fine-tuned checkpoint.

Runs on a bare GPU box: only torch, transformers, pyarrow, numpy and the standard library are imported (and
``pipeline.tables``). ``grid``, ``masks`` and ``packing`` need no torch.
"""
