"""Score and Map: what a caption is. Facts, language, mending, private data."""
