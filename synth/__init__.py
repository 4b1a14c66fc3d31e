"""Synthesis: multi-stream tables written by chat models (design §5). Imports pipeline; pipeline never imports this."""
