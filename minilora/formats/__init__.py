"""File formats of other libraries: Hugging Face's models, GGUF, safetensors."""
