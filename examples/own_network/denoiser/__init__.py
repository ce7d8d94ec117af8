"""A network of one's own: it takes the noise out of images of handwritten digits."""
