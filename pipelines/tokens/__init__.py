"""Score: image codes and text ids, by an encoder that the recipe hands in."""
