"""A linear layer in 8-bit integers that keeps the model's opinion.

torch's own dynamic quantisation (one range for a layer's weights, one for its inputs, 7 bits for the inputs) moves a
small fine-tuned BERT's probabilities by 0.09 on average and changes one label in ten. So:

* each token's inputs in 8 bits over the token's own range, as in LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339);
* weights in 8 bits with a scale for each output. Processors without AVX-512 VNNI add two products in 16 bits, and cut
  off what is too large: inputs of both signs lie around 128, where two of the largest weights side by side can be, so
  that weights end at 112 there. 7 bits (63), where nothing is ever cut off, cost more than that: the mean error of a
  probability on two small models is 0.009 with 63, 0.005 with 112 and 0.007 with 127 (inputs from GELU lie near 0);
* as there, the input columns with the largest values of this batch (1%) are multiplied in floating point instead:
  fine-tuned BERTs have a few far beyond the rest, which would leave little of the integers for the others.

Those columns are the batch's: a text's probabilities depend, in the third digit, on its neighbours. Where that matters,
use fp32 or bf16.
"""

from __future__ import annotations

import warnings
from typing import Final

import torch
from torch import Tensor, nn

#: see above
WEIGHT_MAX: Final = 127
WEIGHT_MAX_16_BITS: Final = 112
#: one input column in this many is taken out of the integers
COLUMNS_PER_OUTLIER: Final = 96
FEWEST_OUTLIERS: Final = 4
#: inputs from GELU are hardly ever below this share of the token's largest: its least value is -0.17
_GELU_LOWEST: Final = -1 / 6


class Int8Linear(nn.Module):
    """``nn.Linear`` with integer weights: (rows, in) fp32 → (rows, out) fp32. A row that is not finite stays so.

    ``overwrite``: nobody reads the inputs afterwards, so that they need not be copied. ``after_gelu``: they are its.
    """

    def __init__(self, linear: nn.Linear, *, overwrite: bool = False, after_gelu: bool = False) -> None:
        super().__init__()
        self._overwrite = overwrite
        weight = linear.weight.detach().float()
        most = (
            WEIGHT_MAX if after_gelu or torch.cpu.get_capabilities().get("avx512_vnni", False) else WEIGHT_MAX_16_BITS
        )
        scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / most
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():  # torch 2.13 means to drop these tensors one day; nothing replaces them on CPUs
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
            quantised = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantised, None)
        self._bias = torch.zeros(len(scales)) if linear.bias is None else linear.bias.detach().float()
        self._scales = scales
        self._columns = quantised.int_repr().t().contiguous()
        self._outliers = min(max(FEWEST_OUTLIERS, linear.in_features // COLUMNS_PER_OUTLIER), linear.in_features)
        self._lowest = _GELU_LOWEST if after_gelu else -1.0
        self._step = (1 - self._lowest) / 255
        self._zero = round(-self._lowest / self._step)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        columns = _reach(rows)
        if not bool(columns.isfinite().all()):  # such rows have no say
            columns = _reach(rows.masked_fill(~rows.isfinite().all(1, keepdim=True), 0.0))
        largest = columns.topk(self._outliers).indices
        apart = rows.index_select(1, largest)
        rows = rows.index_fill_(1, largest, 0.0) if self._overwrite else rows.index_fill(1, largest, 0.0)
        reach = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True) / self._lowest)
        rows.div_(reach.clamp_min_(torch.finfo(torch.float32).tiny))
        outputs: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows, self._step, self._zero, self._packed
        )
        outputs = torch.addcmul(self._bias, outputs, reach)
        outputs.addmm_(apart, self._columns.index_select(0, largest) * self._scales)
        return outputs.reshape(*inputs.shape[:-1], -1)


def _reach(rows: Tensor) -> Tensor:
    """The largest absolute value of each column."""
    return torch.maximum(rows.amax(0), -rows.amin(0))  # ten times as fast as aminmax(dim=0)


def quantise(model: nn.Module) -> nn.Module:
    """Every linear layer of a transformer's encoder in place; what lies outside (the classifier's head) stays exact."""
    for name, child in model.named_children():
        if isinstance(child, nn.Linear):
            setattr(model, name, Int8Linear(child))
        else:
            quantise(child)
    return model
