"""Picture to embedding: images, preprocessing, and the encoders that turn pixels into numbers for a language model."""
