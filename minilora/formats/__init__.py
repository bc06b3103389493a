"""Files of other libraries: Hugging Face's bases and PEFT's adapters."""
