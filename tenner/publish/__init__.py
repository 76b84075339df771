"""Publishing a run on the Hugging Face hub: what goes there, what is held back, and the upload."""
