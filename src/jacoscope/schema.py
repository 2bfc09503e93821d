"""What records carry in an event file so that their readers know them.

It imports nothing, so that TensorBoard can read records without loading PyTorch.
"""

from __future__ import annotations

__all__ = ["PLUGIN_NAME", "SCHEMA_VERSION"]

PLUGIN_NAME = "jacoscope"
"""The name that recorded tensors carry in an event file."""

SCHEMA_VERSION = 1
"""The version of what recorded tensors look like; readers pass over others."""
