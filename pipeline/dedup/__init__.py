"""Duplicates: conversations that say the same, or nearly, wherever they come from.

Each shard of records is sketched by itself (``sketches``: words, shingles, MinHash signatures, to a scratch file). All
conversations are then put in one order (``order``: the copy to keep comes first). Those of equal text are exact copies; of the
others those that share a band of their signatures are compared (``candidates``), by the shingles themselves (``copies``).
"""
