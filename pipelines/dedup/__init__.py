"""Global: what is alike in the whole corpus: copies, clusters, near-duplicates, eval items."""
