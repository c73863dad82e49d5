"""From a trained net to samples."""
