"""The Sensitivity tab of TensorBoard: what its page asks for, read from a run's records.

A request goes one way: routes → query → catalogue → store → reductions → wire. Nothing here imports
PyTorch or Lightning, so that TensorBoard starts as fast with the tab as without.
"""
