"""Looking at samples: pictures, solids, meshes and pages. numpy, scikit-image and Pillow only."""

from ddiff.viewing.meshes import isosurface, mesh_tensors, write_obj, write_ply
from ddiff.viewing.page import write_page
from ddiff.viewing.pictures import image_grid, save_png
from ddiff.viewing.shading import shade, volume_grid
from ddiff.viewing.still import picture

__all__ = [
    "image_grid",
    "isosurface",
    "mesh_tensors",
    "picture",
    "save_png",
    "shade",
    "volume_grid",
    "write_obj",
    "write_page",
    "write_ply",
]
