"""Facts about public datasets, one file an entry, and how a recipe reads each."""
