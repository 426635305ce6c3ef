"""Complete checkpoint folders in the layouts of GPTQ, AWQ and compressed-tensors.

`scheme.py` says what can be asked for; `modules.py` finds the modules of a model and gives their weights or codes;
`layouts.py` puts codes into the tensors of a layout; `description.py` writes the configuration that loaders read;
`folder.py` writes safetensors shards into a folder that appears whole or not at all; `run.py` ties them together.
"""
