"""Interleaved documents: their pictures one by one, and the document put together again."""
