"""Write: training shards with their sidecars, and the readers and checks of them."""
