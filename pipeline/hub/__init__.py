"""Pushing a data set to the Hugging Face Hub: docs/publishing.md."""
