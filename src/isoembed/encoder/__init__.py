"""Models in, embeddings out: loading, counting, pooling, embedding, export."""
