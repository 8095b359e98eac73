"""Language models of others: what they are called there, read, begun from and written again."""
