"""Judge documents, never change them."""
