"""Evaluation sets, and what of a conversation stands in them. The filter is ``pipeline.filters.contamination``."""
