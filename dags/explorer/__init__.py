"""A run as a page that a person explores: look, find, draw a threshold, choose."""
