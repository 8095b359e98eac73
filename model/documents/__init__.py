"""What a model eats: texts and pictures as documents, and batches of them."""
