"""Score: what a picture is. CLIP scores, hashes, facts, local features, heads on embeddings."""
