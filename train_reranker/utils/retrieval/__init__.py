"""Finding candidates: the text encoder, the vector index, and the five arms over them."""
