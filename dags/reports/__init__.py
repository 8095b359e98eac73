"""How a run is shown: what is gathered of it, and the page."""
