"""The shapes of products in bfloat16 on a CPU, of which there should be few.

oneDNN makes a kernel for each shape, keeps 1,024 of them, and makes the others again and again. Rows have any number of
tokens, so most of them would have kernels of their own: rows are filled until some number divides their tokens. What
fills them is computed and thrown away.
"""

import torch

ROW_MULTIPLE = 32
"""Of tokens in a row, and of trained positions."""
DOCUMENT_MULTIPLE = 16
"""Of slots for the longest document of a row, in attention."""


def made_for_each(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for each shape there."""
    return device.type == "cpu" and dtype == torch.bfloat16


def missing(count: int, multiple: int, device: torch.device, dtype: torch.dtype) -> int:
    """How many more than `count` there must be for `multiple` to divide them; none where kernels fit any shape."""
    return -count % multiple if made_for_each(device, dtype) else 0
