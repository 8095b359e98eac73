"""Read: where rows come from. Tables, files, tars and documents become rows of one schema."""
