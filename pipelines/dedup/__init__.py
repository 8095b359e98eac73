"""Global: what is alike in the whole corpus. Copies, clusters, near-duplicates, evaluation items."""
