"""Makes the detector take pictures of any size: `python free_input_size.py IN.onnx OUT.onnx`. Run once, with the package `onnx`.

The published graph is fixed to 640×640 pixels; a portrait is found as well in 256×320, in a fifth of the time. Height, width and
the number of candidates become symbols, the shapes inferred from 640 are dropped; no weight and no operator changes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx  # type: ignore[import-not-found, unused-ignore]  # a development tool, not a dependency


def free(source: Path, target: Path) -> None:
    """Write `source` with a free input height and width to `target`."""
    model = onnx.load(source)
    batch_channels_height_width = model.graph.input[0].type.tensor_type.shape.dim
    batch_channels_height_width[2].dim_param = "height"
    batch_channels_height_width[3].dim_param = "width"
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = f"candidates_{output.name}"
    del model.graph.value_info[:]
    onnx.save(model, target)


if __name__ == "__main__":
    free(Path(sys.argv[1]), Path(sys.argv[2]))
