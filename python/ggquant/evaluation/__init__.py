"""What quantization cost: in weights (`tensors`), in predictions (`perplexity`), tensor by tensor (`alone`)."""
