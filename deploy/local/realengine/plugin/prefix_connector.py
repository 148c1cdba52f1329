"""A KV connector for vLLM on a CPU that shares prefixes, not only whole prompts, through a directory.

vLLM's own tiers need an accelerator, and its ExampleConnector finds a prompt only where the very same one was stored.
This one stores as that does, and looks for the longest stored prompt that begins the asked one. It runs inside vLLM's
environment (``kv_connector_module_path``), never in tidefleet's.
"""

# mypy: ignore-errors

from __future__ import annotations

import os

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import (
    ExampleConnector,
    ExampleConnectorMetadata,
    align_to_block_size,
)


class PrefixConnector(ExampleConnector):
    """Finds the longest stored prefix of whole blocks."""

    def _longest(self, request) -> int:
        """Tokens of it; at least one token is left for the engine to compute."""
        tokens = torch.tensor(list(request.prompt_token_ids or []))
        hashes = [feature.identifier for feature in request.mm_features]
        most = align_to_block_size(len(tokens), self._block_size)
        for count in range(most, 0, -self._block_size):
            if os.path.exists(self._generate_foldername_debug(tokens[:count], hashes, create_folder=False)):
                return count
        return 0

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        """Tokens beyond what the engine holds itself."""
        return max(0, self._longest(request) - num_computed_tokens), False

    def build_connector_meta(self, scheduler_output):
        """Load what was matched; store every prompt that is not stored whole."""
        meta = ExampleConnectorMetadata()
        for new in scheduler_output.scheduled_new_reqs:
            tokens = list(new.prompt_token_ids or [])
            hashes = [feature.identifier for feature in new.mm_features]
            request = self._requests_need_load.get(new.req_id)
            longest = self._longest(request) if request is not None else 0
            if longest:
                meta.add_request(tokens[: longest + 1], new.block_ids[0], self._block_size, False, hashes)
            if longest < align_to_block_size(len(tokens), self._block_size):
                meta.add_request(tokens, new.block_ids[0], self._block_size, True, hashes)
        self._requests_need_load.clear()
        return meta
