"""What trains on shards, and the world of shapes that it is tried on."""
