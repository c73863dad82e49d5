"""Looking at samples: pictures, solids, meshes. numpy, scipy, scikit-image and Pillow only."""

from ddiff.pages.view.meshes import (
    WRITERS,
    isosurface,
    mesh_tensors,
    write_obj,
    write_ply,
    write_stl,
)
from ddiff.pages.view.pictures import picture, save_png

__all__ = ["WRITERS", "isosurface", "mesh_tensors", "picture", "save_png", "write_obj", "write_ply",
           "write_stl"]  # fmt: skip
