"""The RKLLM functions: their layouts by release, the library that provides them, and the object that owns a model."""
