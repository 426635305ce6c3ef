"""Model families, each declared in one file, and the engine that carries them out."""
