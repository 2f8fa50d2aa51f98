"""Embedding and question to text: the pipeline, the RKLLM functions and the surfaces."""
