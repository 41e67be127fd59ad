"""Against a real vLLM server on the CPU: `make test-vllm`."""
