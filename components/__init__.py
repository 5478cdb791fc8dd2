"""The pipeline's nodes and the packages they share; each folder is one subject."""
